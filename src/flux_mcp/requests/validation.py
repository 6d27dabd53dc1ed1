"""Validation of requests: the types of their fields, and one error with a hint for a mistake."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from flux_mcp.errors import (
    InvalidRequestError,
    InvalidSizeError,
    PromptTooLongError,
    RequestError,
)
from flux_mcp.requests.other_names import instead_of, replaced_by

MAX_PROMPT_CHARACTERS = 2000
MAX_COUNT = 8
MAX_LORAS = 8
MAX_WAIT_S = 230
USUAL_WAIT_S = 45
"""Of a call that generates images and says nothing: clients in TypeScript end calls after 60 s."""
USUAL_POLL_S = 20
"""Of flux_get_job: short, because its caller can ask again."""
MAX_SEED = 2**53 - 1 - MAX_COUNT
"""Seeds travel as JSON numbers, which clients in JavaScript hold exactly up to 2**53 - 1."""


def parse_json_text(value: object) -> object:
    """Accept a list or object sent as JSON text: some clients quote structured arguments."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


BRIEF, LEFT_OUT = "brief", "left_out"
"""Keys in a field's JSON schema: the description that is published with a tool, and a value that
means the same as leaving the argument out."""


def brief(text: str, *, left_out: float | str | None = None) -> dict[str, JsonValue]:
    """Return the `json_schema_extra` of a field that is published with fewer words, or none.

    Args:
        text: The published description.
        left_out: A value, outside those that are allowed, that means the same as leaving the
            argument out. It is published as allowed: where a client's strict mode makes a model
            give every argument, the model needs one to give.
    """
    return {BRIEF: text} if left_out is None else {BRIEF: text, LEFT_OUT: left_out}


class MistakeError(ValueError):
    """A validation error with a hint: what to do instead."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def as_list(value: object) -> object:
    """Accept one item for a list of them, and either as JSON text."""
    value = parse_json_text(value)
    is_broken = isinstance(value, str) and value.lstrip()[:1] in ("[", "{")
    return [value] if isinstance(value, str | dict) and not is_broken else value


def _is_control(character: str) -> bool:
    code = ord(character)
    return (code < 0x20 and character not in "\t\n\r") or 0x7F <= code <= 0x9F  # noqa: PLR2004


def printable(value: str) -> str:
    """Refuse control characters, which break metadata and terminals, and lone surrogates."""
    if any(map(_is_control, value)):
        raise MistakeError(
            "contains control characters", "Remove them; line breaks and tabs may stay."
        )
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise MistakeError(
            "contains half a character (a lone surrogate)", "Send whole Unicode characters."
        )
    return value


def not_blank(value: str) -> str:
    """Refuse what has no words in it."""
    if not value.strip():
        raise MistakeError("is blank", "Say in words what the image shows.")
    return value


Real = Annotated[float, Field(allow_inf_nan=False)]
Words = Annotated[str, AfterValidator(printable)]
Name = Annotated[str, Field(min_length=1, max_length=100), AfterValidator(printable)]
ModelId = Annotated[str, Field(max_length=100), AfterValidator(printable)]
Key = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(printable)]
Prompt = Annotated[
    str,
    Field(min_length=1, max_length=MAX_PROMPT_CHARACTERS),
    AfterValidator(printable),
    AfterValidator(not_blank),
]


class Request(BaseModel):
    """Base of every request and of the objects in it: closed, and without empty arguments.

    An argument that is empty, as the strict modes of clients make models give them, is taken as
    left out: `null`, `""`, `[]`, `{}`, an object or a list that holds only such, and the value
    that its `brief` names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    example: ClassVar[str] = ""
    """A whole right value, for the hint of an error inside an argument that has this shape."""
    also_named: ClassVar[Mapping[str, str]] = {}
    """Other names that can only mean one of ours, for as long as ours is not given."""

    @classmethod
    def given(cls, data: Any) -> Any:
        """Return the arguments that say something, by our names; anything but a dict as it is."""
        if not isinstance(data, dict):
            return data
        given = {}
        for name, value in data.items():
            ours = cls.also_named.get(name, name)
            field = cls.model_fields.get(ours)
            if field is None:
                given[name] = value
            elif not _says_nothing(value, field):
                is_taken = ours != name and not _says_nothing(data.get(ours), field)
                given[name if is_taken else ours] = _as_listed(value, field.annotation)
        return given

    @classmethod
    def contradictions(cls, given: Mapping[str, Any]) -> Iterator[MistakeError]:
        """Yield what is wrong with arguments that may each be right alone.

        Args:
            given: What `given` returns, or the same with values that were read.
        """
        del given
        yield from ()

    @model_validator(mode="before")
    @classmethod
    def _without_what_is_empty(cls, data: Any) -> Any:
        return cls.given(data)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse `steps: true`, which Python would take for 1."""
        field = cls.model_fields[info.field_name or ""]
        if isinstance(value, bool) and field.annotation is not bool:
            raise MistakeError("must not be true or false", field.description or "")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> "Request":
        read = {name: getattr(self, name) for name in type(self).model_fields}
        given = {name: value for name, value in read.items() if value is not None}
        for mistake in self.contradictions(given):
            raise mistake
        return self


def _says_nothing(value: Any, field: FieldInfo) -> bool:
    """Whether a value of an argument means that it is left out."""
    inner = _model_in(field.annotation)
    if inner is not None:
        value = parse_json_text(value)
    if isinstance(value, list):
        return all(_is_empty(item, inner) for item in value)
    extra = field.json_schema_extra
    left_out = extra.get(LEFT_OUT) if isinstance(extra, dict) else None
    return _is_empty(value, inner) or (left_out is not None and _is_same(value, left_out))


def _is_empty(value: Any, inner: type[BaseModel] | None) -> bool:
    """Whether a value is empty; of an object, whether all is that it holds."""
    if isinstance(value, dict) and inner is not None and issubclass(inner, Request):
        return _holds_nothing(value, inner)
    return value is None or value in ("", [], {})


def _as_listed(value: Any, annotation: Any) -> Any:
    """Return a word of a list as it stands there: `HIGH` is `high`."""
    words = _words_in(annotation) if isinstance(value, str) else ()
    return next((word for word in words if _is_word(value, word)), value)


def _words_in(annotation: Any) -> tuple[Any, ...]:
    inner = get_args(annotation)
    if get_origin(annotation) is Literal:
        return inner
    return tuple(word for one in inner for word in _words_in(one))


def _is_word(value: Any, word: str) -> bool:
    return isinstance(value, str) and value.strip().casefold() == word


def _is_same(value: Any, left_out: JsonValue) -> bool:
    """Whether a value is the one that means left out; a number may be given as text."""
    if isinstance(left_out, str):
        return _is_word(value, left_out)
    try:
        return not isinstance(value, bool) and float(value) == left_out
    except (TypeError, ValueError, OverflowError):
        return False


def _holds_nothing(value: dict[str, Any], model: type[Request]) -> bool:
    """Whether an object is empty: as a box of zeros, or the weight 1 beside an empty name."""
    rest = model.given(value)
    return not rest or (
        any(name in value for name, field in model.model_fields.items() if field.is_required())
        and all(
            name in model.model_fields
            and not isinstance(one, bool)
            and one in (0, model.model_fields[name].default)
            for name, one in rest.items()
        )
    )


M = TypeVar("M", bound=BaseModel)
Where = tuple[int | str, ...]

_CODES: dict[tuple[str, str], type[RequestError]] = {
    ("prompt", "string_too_long"): PromptTooLongError,
    ("negative_prompt", "string_too_long"): PromptTooLongError,
    ("prompt", "too_long"): PromptTooLongError,
    ("negative_prompt", "too_long"): PromptTooLongError,
    ("aspect_ratio", "literal_error"): InvalidSizeError,
    ("width", "*"): InvalidSizeError,
    ("height", "*"): InvalidSizeError,
}
_MOST_TOLD = 6
"""Mistakes of one call that are told; the rest are told once these are right."""


def parse_request(model: type[M], arguments: dict[str, Any]) -> M:
    """Validate raw arguments.

    Raises:
        RequestError: everything that is wrong, each with what to do instead.
    """
    try:
        return model.model_validate(arguments)
    except ValidationError as error:
        raise explain(error, model, arguments) from error


def explain(
    error: ValidationError, model: type[BaseModel], arguments: Mapping[str, Any]
) -> RequestError:
    """Return what pydantic found as one of our errors.

    Args:
        error: Of the arguments.
        model: What they were to be.
        arguments: As they were given.
    """
    details = error.errors(include_url=False)
    # What a name that does not exist was meant to be is not missing as well.
    meant = {
        (*detail["loc"][:-1], ours): detail["input"]
        for detail in details
        if detail["type"] == "extra_forbidden"
        for ours in replaced_by(
            str(detail["loc"][-1]), detail["input"], _names(detail["loc"], model)
        )
    }
    found = [
        _explained(detail, model)
        for detail in sorted(details, key=lambda detail: detail["type"] == "missing")
        if detail["loc"] and not (detail["type"] == "missing" and detail["loc"] in meant)
    ]
    if issubclass(model, Request):
        # Those between arguments; pydantic looks for them only where each argument is right.
        given = {
            **model.given(arguments),
            **{to[0]: one for to, one in meant.items() if not to[1:]},
        }
        found += [_of_the_whole(str(one), one.hint) for one in model.contradictions(given)]
    return together(found or [_explained(details[0], model)])


def together(errors: Sequence[RequestError]) -> RequestError:
    """Return one error for all that is wrong with a call; a single one as it is."""
    first, *others = errors
    if not others:
        return first
    kinds = {type(one) for one in errors}
    kind = kinds.pop() if len(kinds) == 1 else InvalidRequestError
    told = [
        f"({number}) {one.message} {one.hint}".rstrip()
        for number, one in enumerate(errors[:_MOST_TOLD], start=1)
    ]
    if len(errors) > len(told):
        told.append(f"And {len(errors) - len(told)} more.")
    return kind(f"There are {len(errors)} mistakes.", " ".join(told))


class Mistakes:
    """What is wrong with one call, found in several places and told at once."""

    def __init__(self) -> None:
        self._found: list[RequestError] = []

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Note the error that the body ends with."""
        try:
            yield
        except RequestError as error:
            self._found.append(error)

    def refuse(self) -> None:
        """Raise everything that was noted, as one error.

        Raises:
            RequestError: there is something.
        """
        if self._found:
            raise together(self._found)


def _explained(detail: Any, model: type[BaseModel]) -> RequestError:
    """Return one error that pydantic found as one of ours."""
    where = ".".join(str(part) for part in detail["loc"])
    if not where:
        return _of_the_whole(_message(detail), _hint(detail, model))
    field = str(detail["loc"][0])
    kind = _CODES.get((field, detail["type"])) or _CODES.get((field, "*")) or InvalidRequestError
    whole = _example(detail["loc"], model)
    if detail["type"] == "extra_forbidden":
        known = _names(detail["loc"], model)
        hint = instead_of(str(detail["loc"][-1]), detail["input"], known)
        return InvalidRequestError(f"There is no argument '{where}'.", _with(whole, hint))
    if kind is PromptTooLongError:
        message = f"{field} is longer than {MAX_PROMPT_CHARACTERS} characters"
        return kind(f"{message}.", "Say it shorter; the text encoders cut long prompts anyway.")
    return kind(f"{where}: {_message(detail)}.", _with(whole, _hint(detail, model)))


def _of_the_whole(message: str, hint: str) -> RequestError:
    return InvalidRequestError(f"{message[:1].upper()}{message[1:]}.", hint)


def _message(detail: Any) -> str:
    if detail["type"] == "literal_error":
        return "There is no such value"  # the hint has those there are
    if detail["type"] in ("model_type", "model_attributes_type"):
        return "Input should be an object"
    return str(detail["msg"]).removeprefix("Value error, ")


def _hint(detail: Any, model: type[BaseModel]) -> str:
    context = detail.get("ctx") or {}
    mistake = context.get("error")
    if isinstance(mistake, MistakeError) and mistake.hint:
        return mistake.hint
    if detail["type"] == "literal_error":
        return f"Use {context['expected']}."
    field = _field(detail["loc"], model)
    about = (field.description if field is not None else None) or ""
    if detail["type"] == "missing":
        return f"Give a value for it. {about}".rstrip()
    return about or "Correct it and call again."


def _example(where: Where, model: type[BaseModel]) -> str:
    """Return a whole right value of the argument that an error is in, where one was written."""
    field = model.model_fields.get(str(where[0])) if where else None
    inner = None if field is None else _model_in(field.annotation)
    example = inner.example if inner is not None and issubclass(inner, Request) else ""
    return f' A whole one: "{where[0]}": {example}.' if example else ""


def _with(whole: str, hint: str) -> str:
    """Add a whole right value to a hint, unless it has one of its own."""
    name = whole.partition(": ")[2].partition(":")[0]
    return hint if name and f"{name}: {{" in hint else f"{hint}{whole}"


def _names(where: Where, model: type[BaseModel]) -> Collection[str]:
    """Return the arguments there are at a place."""
    return tuple(_owner(where, model).model_fields)


def _field(where: Where, model: type[BaseModel]) -> FieldInfo | None:
    """Return the innermost field an error is about; an item of a list belongs to its field."""
    for length in range(len(where), 0, -1):
        owner = _owner(where[:length], model)
        field = owner.model_fields.get(str(where[length - 1]))
        if field is not None:
            return field
    return None


def _owner(where: Where, model: type[BaseModel]) -> type[BaseModel]:
    """Return the model the last part of `where` belongs to, following nested models."""
    for part in where[:-1]:
        field = model.model_fields.get(str(part))
        if field is not None:
            model = _model_in(field.annotation) or model
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_model_in(inner) for inner in get_args(annotation))
    return next((inner for inner in found if inner is not None), None)
