"""Places of answers in prompts, known by hand."""

import numpy as np
import pytest

from recall_evals.task_configs.places import Place, answers_of, characters, locate, occurrences, repeats


def of_characters(prompt: str, answer: str, room: int | None = None) -> Place:
    return locate(prompt, [[answer]], characters(prompt), room)


def test_place_of_a_fact():
    prompt = "x" * 19 + " 42 " + "y" * 30 + "\nKey:"  # 19 + 4 + 30 + 5 = 58 characters, the answer at 20 and 21
    assert of_characters(prompt, "42") == Place(58, 58, 32, 20 / 58, True, 1, 2)  # between: a space, 30 y, a newline


def test_depth_takes_the_first_occurrence_and_distance_the_last():
    prompt = "ab, 7, cd, 7, ef\nQ:"
    place = of_characters(prompt, "7")
    assert (place.depth, place.distance, place.repeats) == (4 / 19, 5, 2)


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        (19, Place(19, 19, 5, 4 / 19, True, 2, 1)),
        (15, Place(19, 15, 5, 0.0, True, 2, 1)),  # the first occurrence is the first token read
        (14, Place(19, 14, 5, 6 / 14, True, 2, 1)),  # only the last one was read
        (8, Place(19, 8, 5, 0.0, True, 2, 1)),
        (7, Place(19, 7, 5, 4 / 19, False, 2, 1)),  # cut away: of the prompt as asked
        (0, Place(19, 0, 5, 4 / 19, False, 2, 1)),
        (100, Place(19, 19, 5, 4 / 19, True, 2, 1)),
    ],
)
def test_truncation_on_the_left(room, expected):
    assert of_characters("ab, 7, cd, 7, ef\nQ:", "7", room) == expected


def test_an_answer_cut_in_half_did_not_survive():
    assert of_characters("ab 1234 cd\nQ:", "1234", 10).survived is True
    assert of_characters("ab 1234 cd\nQ:", "1234", 9).survived is False


def test_prompt_in_one_line_and_an_answer_that_stands_nowhere():
    assert of_characters("the pump is red today", "red").distance == 6
    assert of_characters("the pump is red today", "blue", 4) == Place(21, 4, None, None, None, 0, None)
    assert of_characters("the pump", " ").survived is None
    assert of_characters("", "red").survived is None


def test_an_answer_in_the_question_counts_to_the_end():
    assert of_characters("red\nIs red or", "red").distance == 3


def test_tokens_that_cut_across_words():
    # "ab|, re|d|, x|\nQ|:": the answer's first character is within the second token.
    bounds = np.array([0, 2, 6, 7, 10, 12, 13], dtype=np.int32)
    place = locate("ab, red, x\nQ:", [["red"]], (bounds[:-1], bounds[1:]))
    assert place == Place(6, 6, 1, 1 / 6, True, 1, 2)  # between: ", x", for the newline is a part of the question's


def test_several_values_are_all_needed_and_alternatives_are_not():
    prompt = "11 aa 22 bb 11\nQ:"
    bounds = characters(prompt)
    both = locate(prompt, [["11"], ["22"]], bounds)
    assert both == Place(17, 17, 1, 0.0, True, 1, 4)
    assert locate(prompt, [["11"], ["22"]], bounds, 10).survived is False
    assert locate(prompt, [["22", "11"]], bounds, 10).survived is True
    assert locate(prompt, [["11"], ["33"]], bounds).survived is None
    assert locate(prompt, [["11", "11 aa"]], bounds).repeats == 2  # overlapping ones are one


def test_whole_words_first():
    assert occurrences("ear", "bear, Ear, early") == [(6, 9)]
    assert occurrences("ear", "bear, early") == [(1, 4), (6, 9)]
    assert occurrences("$5", "a$5, $55") == [(1, 3)]
    assert occurrences("(a", "f(a) (a") == [(1, 3), (5, 7)]


def test_how_often_an_answer_stands_in_a_text():
    assert repeats([["7"]], "7, 7 and 77") == 2
    assert repeats([["7"], ["8"]], "7, 7, 8") == 1  # of all that is asked for, the rarest
    assert repeats([["7", "8"]], "7, 7, 8") == 3  # of alternatives, any
    assert repeats([["9"]], "7") == repeats([[""]], "7") == repeats([], "7") == 0


def test_answers_of_every_kind_of_row():
    assert answers_of({"values": ["1", "2"], "value": "1"}, None) == [["1"], ["2"]]
    assert answers_of({"value": "1", "answers": ["2"]}, "3") == [["1"]]
    assert answers_of({"answers": ["1", "2"]}, "3") == [["1", "2"]]
    assert answers_of({}, "3") == [["3"]]
    assert answers_of({"value": 3}, 4) is None
