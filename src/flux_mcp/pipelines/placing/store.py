"""Every loaded part, by what its files hold: where its weights are, and what moves them.

Owns the parts, their order of use and the count of copied bytes. While something draws, each model
calls for its weights before it works; what else may stay on the card beside it is the placement's
to say. Without a card (CPU, MPS) parts are kept and nothing is moved.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from flux_mcp.models.parts import Placement, load_parts
from flux_mcp.pipelines.device import tensors_of
from flux_mcp.pipelines.eviction import Held, Move, free_card, free_host
from flux_mcp.pipelines.placing.card import ArrivalHook, Card
from flux_mcp.pipelines.placing.parts import Part
from flux_mcp.pipelines.placing.units import Traffic


class PartStore:
    """The parts.

    Args:
        card: Where they work; `None` where there is no second memory.
        host_budget_bytes: Of main memory, for weights that what draws now does not need.
        forget: Called with parts that have to go, before they do: nothing may use them afterwards.
    """

    def __init__(
        self, card: Card | None, host_budget_bytes: int, forget: Callable[[Collection[str]], None]
    ) -> None:
        self.card = card
        self.traffic = Traffic()
        self._host_budget_bytes = host_budget_bytes
        self._forget = forget
        self._models: dict[str, Any] = {}
        self._parts: dict[str, Part] = {}
        self._last_used: dict[str, int] = {}
        self._uses = 0
        self._drawing: frozenset[str] = frozenset()
        self._placement: Placement = "resident"

    def __contains__(self, key: str) -> bool:
        """Whether a part is loaded."""
        return key in self._models

    def __getitem__(self, key: str) -> Any:
        """Return a loaded part: a model, or a tokenizer."""
        return self._models[key]

    def __iter__(self) -> Iterator[str]:
        """Yield the key of every loaded part."""
        return iter(self._models)

    def __len__(self) -> int:
        """How many parts are loaded."""
        return len(self._models)

    @property
    def card_bytes(self) -> int:
        """Of the card's memory that parts take now."""
        return self.card_bytes_of(self._parts)

    @property
    def host_bytes(self) -> int:
        """Of main memory that weights take which wait, or are kept, for the card."""
        return self.host_bytes_of(self._parts)

    def card_bytes_of(self, keys: Collection[str]) -> int:
        """Return what some parts take of the card."""
        return sum(part.card_bytes for key, part in self._parts.items() if key in keys)

    def host_bytes_of(self, keys: Collection[str]) -> int:
        """Return what the copies of some parts take of main memory."""
        here = [part for key, part in self._parts.items() if key in keys and part.in_host]
        return sum(part.nbytes for part in here)

    def is_on_card(self, key: str) -> bool:
        """Whether a part's weights are on the card, or it has none; true without a card."""
        return key not in self._parts or self._parts[key].is_on_card

    def add(self, key: str, model: Any, *, on_card: bool) -> None:
        """Keep a part that was just loaded.

        Args:
            key: Names it.
            model: The model, or a tokenizer.
            on_card: Whether it was loaded onto the card.
        """
        self._models[key] = model
        self._touch([key])
        if self.card is None or not tensors_of(model):
            return
        part = Part(model, self.card.device.name, self.traffic, on_card=on_card)
        self._parts[key] = part
        self._call_before_work(key, model)
        if not on_card:
            self._make_host_room_for(part)
            part.make_host_copy()
        elif self._is_one_at_a_time:
            self._leave(part)

    def vary(self, key: str, make: Callable[[Any], Any]) -> Any:
        """Return a model made of a part's own tensors, which goes where the part goes.

        Args:
            key: Names the part.
            make: Given the part's model without hooks; may raise, and then all is as it was.
        """
        model, part = self._models[key], self._parts.get(key)
        if part is None:
            return make(model)
        from accelerate.hooks import remove_hook_from_module

        # Blocks that stream have hooks of their own, and are elsewhere a moment later.
        if part.is_streaming:
            part.leave()
        remove_hook_from_module(model)
        try:
            variant = make(model)
        finally:
            self._call_before_work(key, model)
        part.join(variant)
        self._call_before_work(key, variant)
        return variant

    def _call_before_work(self, key: str, model: Any) -> None:
        from accelerate.hooks import add_hook_to_module

        card = self.card
        if card is not None:
            add_hook_to_module(model, ArrivalHook(card.device.name, lambda: self._arrive(key)))

    def drop(self, keys: Iterable[str]) -> None:
        """Forget parts; their memory is free again."""
        for key in keys:
            model = self._models.pop(key, None)
            self._last_used.pop(key, None)
            part = self._parts.pop(key, None)
            if part is None:
                continue
            from accelerate.hooks import remove_hook_from_module

            remove_hook_from_module(model)
            if part.in_host:
                # Copies nothing, and waits for blocks that are on their way.
                part.leave()

    def begin(self, keys: Collection[str], placement: Placement) -> None:
        """Let a pipeline draw next.

        Args:
            keys: Its parts, the text encoders too; those that are not loaded yet follow.
            placement: Where their weights are while they do not work.
        """
        self.rest()
        self._drawing, self._placement = frozenset(keys), placement
        here = [key for key in keys if key in self._models]
        self._touch(here)
        if not self._is_one_at_a_time:
            for key in here:
                self._arrive(key)

    def rest(self) -> None:
        """Take what drew off the card, where it is there only to work."""
        if self._is_one_at_a_time:
            for part in self._drawing_parts():
                self._leave(part)

    def make_room(self, needed_bytes: int, keep: Collection[str]) -> bool:
        """Free memory of the card, and say whether there is enough now.

        Args:
            needed_bytes: What is to come.
            keep: Parts that what draws next needs: they stay as they are.
        """
        if self.card is None:
            return True
        free = self.card.free_bytes(self.card_bytes)
        if needed_bytes > free:
            host_free = self._host_budget_bytes - self.host_bytes
            self._do(free_card(self._held(keep), needed_bytes, free, host_free))
            free = self.card.free_bytes(self.card_bytes)
        return needed_bytes <= free

    def make_host_room(self, needed_bytes: int, keep: Collection[str]) -> None:
        """Free main memory for what is to come, as far as something may go."""
        host_free = self._host_budget_bytes - self.host_bytes
        self._do(free_host(self._held(keep), needed_bytes, host_free))

    @property
    def _is_one_at_a_time(self) -> bool:
        return not load_parts().placement[self._placement].at_once

    def _drawing_parts(self) -> list[Part]:
        return [part for key, part in self._parts.items() if key in self._drawing]

    def _arrive(self, key: str) -> None:
        part = self._parts.get(key)
        if part is None:
            return
        share = self._share_of(part)
        if part.is_at(share):
            return
        if self._is_one_at_a_time:
            for other in self._drawing_parts():
                if other is not part:
                    self._leave(other)
        self._make_host_room_for(part)
        self.make_room(part.card_bytes_at(share) - part.card_bytes, self._drawing | {key})
        part.enter(share)

    def _leave(self, part: Part) -> None:
        if part.is_on_card:
            self._make_host_room_for(part)
            part.leave()

    def _make_host_room_for(self, part: Part) -> None:
        """Make room for a copy that is not there yet: what draws is worth more than what waits."""
        if not part.in_host:
            self.make_host_room(part.nbytes, self._drawing)

    def _share_of(self, part: Part) -> float:
        row = load_parts().placement[self._placement]
        return row.share if row.streams and part.can_stream else 1.0

    def _touch(self, keys: Iterable[str]) -> None:
        self._uses += 1
        self._last_used.update(dict.fromkeys(keys, self._uses))

    def _held(self, keep: Collection[str]) -> list[Held]:
        return [
            Held(
                key=key,
                nbytes=part.nbytes,
                last_used=self._last_used[key],
                is_wanted=key in keep,
                card_bytes=part.card_bytes,
                in_host=part.in_host,
            )
            for key, part in self._parts.items()
        ]

    def _do(self, moves: Iterable[Move]) -> None:
        for move in moves:
            if move.step == "forget":
                self._forget([move.key])
            elif move.step == "drop_copy":
                self._parts[move.key].drop_host_copy()
            else:
                self._parts[move.key].leave()
