"""The data: what is drawn, said and asked agree, and what is kept for judging stays unseen."""

from random import Random

import numpy as np
import pytest

from training import captions, drawing, edits, scenes, tasks
from training.judge import judge


def test_an_eighth_of_all_triples_is_kept_for_judging_and_never_drawn_in_training():
    triples = [
        (shape, colour, background)
        for shape in scenes.SHAPES
        for colour in scenes.COLOURS
        for background in scenes.COLOURS
        if colour != background
    ]
    held_out = [triple for triple in triples if scenes.is_held_out(*triple)]
    assert 0.09 < len(held_out) / len(triples) < 0.16
    random = Random(1)
    for make in tasks.TASKS.values():
        for _ in range(60):
            example = make(random, 64, 64)
            assert not scenes.has_held_out(example.scene)
    assert all(scenes.has_held_out(scenes.held_out_single(random)) for _ in range(50))


def test_every_fact_of_a_scene_is_said():
    random = Random(2)
    for _ in range(300):
        scene = scenes.scene(random)
        words = captions.caption(random, scene).lower()
        assert scene.background in words
        for thing in scene.things:
            assert thing.colour in words
            assert any(noun in words for noun in captions.NOUNS[thing.shape])
            if thing.size is not None and scene.relation is None:
                assert any(word in words for word in captions.SIZE_WORDS[thing.size])
            if thing.place is not None:
                assert any(place in words for place in captions.PLACE_WORDS[thing.place])


@pytest.mark.parametrize("kind", edits.EDITS)
def test_an_edit_says_what_it_changes_and_leaves_the_rest(kind):
    random = Random(3)
    for _ in range(40):
        before = scenes.scene(random, pairs=0, empties=0)
        edit = edits.edit(random, before, kind)
        assert edit.before == before
        words = edit.instruction.lower()
        old, new = before.things[0], (*edit.after.things, None)[0]
        match edit.kind:
            case "recolour":
                assert new.colour in words
                assert new.colour not in before.colours
                assert (new.shape, new.x, new.y, new.radius) == (
                    old.shape,
                    old.x,
                    old.y,
                    old.radius,
                )
            case "reshape":
                assert any(noun in words for noun in captions.NOUNS[new.shape])
                assert (new.colour, edit.after.background) == (old.colour, before.background)
            case "background":
                assert edit.after.background in words
                assert edit.after.things == before.things
            case "resize":
                assert new.radius != old.radius
            case "remove":
                assert edit.after.things == ()
        if edit.kind != "background":
            assert edit.after.background == before.background


def test_what_an_edit_leaves_alone_keeps_its_very_pixels():
    random = Random(4)
    seen = set()
    for _ in range(60):
        example = tasks.kontext(random, 96, 96)
        seen.add(example.edit)
        covered = np.zeros((96, 96), bool)
        for thing in (*example.before.things, *example.scene.things):
            covered |= drawing.coverage(thing, 96, 96) > 0
        if example.edit != "background":
            assert np.array_equal(example.given[~covered], example.target[~covered])
    assert seen == set(edits.EDITS)


def test_scenes_fit_every_canvas():
    random = Random(5)
    for width, height in tasks.CANVASES:
        for _ in range(4):
            scene = scenes.single(random)
            image = drawing.draw(scene, width, height)
            assert image.shape == (height, width, 3)
            assert judge(image, scene).right, (width, height, scene)


@pytest.mark.parametrize("way", tasks.MASKS)
def test_masks_leave_something_and_ask_for_something(way):
    random = Random(6)
    some = 0
    for _ in range(40):
        thing = scenes.held_out_single(random).things[0]
        mask = tasks.MASKS[way][1](random, thing, 112, 80)
        assert mask.shape == (80, 112)
        assert set(np.unique(mask)) <= {0, 255}
        some += 0 < (mask == 255).mean() < 1
        if way == "thing":
            assert mask[drawing.coverage(thing, 112, 80) > 0.5].mean() > 250
    assert some > 30


def test_a_control_image_is_the_servers_own_canny():
    from PIL import Image

    from flux_mcp.pipelines.families.flux1 import canny

    example = tasks.control(Random(7), 128, 128, structure="canny")
    assert np.array_equal(example.given, np.asarray(canny(Image.fromarray(example.target))))
    assert example.given.any()


def test_the_same_seed_makes_the_same_examples():
    for make in tasks.TASKS.values():
        first, second = make(Random(8), 64, 64), make(Random(8), 64, 64)
        assert first.prompts == second.prompts
        assert np.array_equal(first.target, second.target)
