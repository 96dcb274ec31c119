"""The named protocols' prompts and cuts, against strings and numbers written by hand."""

from pathlib import Path
from typing import Any

import pytest
from lm_eval.tasks.fda.task import FDA
from lm_eval.tasks.squad_completion.task import SQUADCompletion
from lm_eval.tasks.swde.task import SWDE

from recall_evals.task_configs.recall.answers import contains, exact, f1
from recall_evals.task_configs.recall.protocols import FORMS, document_of

Row = dict[str, Any]
GPT2 = Path(__file__).resolve().parents[3] / "shared" / "data" / "gpt2"
SUMMARY = "Summary of information above..."

# A row, and its prompt under each protocol.
SWDE_PROMPTS: list[tuple[Row, dict[str, str]]] = [
    (
        {"text": f"The film ran 96 minutes.\n\n{SUMMARY}\ngenre: Drama\nrun time:", "key": "run time", "value": " 96 "},
        {
            "lm-eval-v1": f"The film ran 96 minutes.\n\n{SUMMARY}\ngenre: Drama\nrun time:",
            "based": f"The film ran 96 minutes.\n\n{SUMMARY}\ngenre: Drama\nrun time:",
            "jrt": "The film ran 96 minutes. Run time:",
            "jrt-twice": "Information about Run time. The film ran 96 minutes.\nThe film ran 96 minutes. Run time:",
        },
    ),
    (
        # No summary; the key three times at the end, in three cases. The blanks between them go with the key.
        {"text": " Born in Oslo\nplace:Place:PLACE:", "key": "place", "value": "Oslo"},
        {
            "lm-eval-v1": "Born in Oslo\nplace:Place:PLACE:",
            "based": " Born in Oslo\nplace:Place:PLACE:",
            "jrt": "Born in Oslo. Place:",
            "jrt-twice": "Information about Place. Born in Oslo.\nBorn in Oslo. Place:",
        },
    ),
    (
        # A blank after the last key keeps it, and the dots of both ends go (jrt) or only those before blanks (twice).
        {"text": "...Made of tin. \nmade of: ", "key": "made of", "value": "tin"},
        {
            "lm-eval-v1": "...Made of tin. \nmade of:",
            "based": "...Made of tin. \nmade of: ",
            "jrt": "Made of tin. \nmade of:. Made of:",
            "jrt-twice": "Information about Made of. Made of tin. \nmade of:.\nMade of tin. \nmade of:. Made of:",
        },
    ),
    (
        # Two dots and a blank: one dot is left by jrt, two by the other.
        {"text": f"Page.. {SUMMARY} x: 1 {SUMMARY} y:", "key": "élan", "value": "12"},
        {
            "lm-eval-v1": f"Page.. {SUMMARY} x: 1 {SUMMARY} y:",
            "based": f"Page.. {SUMMARY} x: 1 {SUMMARY} y:",
            "jrt": "Page. Élan:",
            "jrt-twice": "Information about Élan. Page..\nPage.. Élan:",
        },
    ),
    (
        # A key of upper case and colons; nothing but a newline around the document.
        {"text": "\nTown on the Elbe\n:UN code:", "key": ":UN code", "value": "DE HAM"},
        {
            "lm-eval-v1": "Town on the Elbe\n:UN code:",
            "based": "\nTown on the Elbe\n:UN code:",
            "jrt": "Town on the Elbe. :UN code:",
            "jrt-twice": "Information about UN code. Town on the Elbe.\nTown on the Elbe. :UN code:",
        },
    ),
]

FDA_PROMPTS: list[tuple[Row, dict[str, str]]] = [
    (
        {"text": "A. Analyte: Zinc B. Type: test strip\nanalyte:", "key": "analyte", "value": "Zinc "},
        {
            "lm-eval-v1": "A. Analyte: Zinc B. Type: test strip\nanalyte:",
            "based": "A. Analyte: Zinc B. Type: test strip\nanalyte:",
            "jrt": "A. Analyte: Zinc B. Type: test strip. Analyte:",
            "jrt-twice": (
                "Information about Analyte. A. Analyte: Zinc B. Type: test strip.\n"
                "A. Analyte: Zinc B. Type: test strip. Analyte:"
            ),
        },
    ),
    (
        # Repeated key, other case; blanks at the ends stay, newlines and dots go.
        {"text": "\n Sample: serum.\nsample:SAMPLE:", "key": "sample", "value": "serum"},
        {
            "lm-eval-v1": "Sample: serum.\nsample:SAMPLE:",
            "based": "\n Sample: serum.\nsample:SAMPLE:",
            "jrt": " Sample: serum. Sample:",
            "jrt-twice": "Information about Sample.  Sample: serum.\n Sample: serum. Sample:",
        },
    ),
    (
        # A blank between dot and key: dots are only stripped right at the end.
        {"text": "..Page . key:", "key": "key", "value": "Page"},
        {
            "lm-eval-v1": "..Page . key:",
            "based": "..Page . key:",
            "jrt": "Page . . Key:",
            "jrt-twice": "Information about Key. Page . .\nPage . . Key:",
        },
    ),
    (
        # The published form: a blank after the colon keeps the key, when the text wasn't cut (and so stripped).
        {"text": "K12 is cleared.\npurpose: ", "key": "purpose", "value": "K12"},
        {
            "lm-eval-v1": "K12 is cleared.\npurpose:",
            "based": "K12 is cleared.\npurpose: ",
            "jrt": "K12 is cleared.\npurpose: . Purpose:",
            "jrt-twice": "Information about Purpose. K12 is cleared.\npurpose: .\nK12 is cleared.\npurpose: . Purpose:",
        },
    ),
    (
        # Dots before the newline go together; the key starts with a digit, which has no upper case.
        {"text": "510(k) Number: k1...\n\n510(k) number:", "key": "510(k) number", "value": "k1"},
        {
            "lm-eval-v1": "510(k) Number: k1...\n\n510(k) number:",
            "based": "510(k) Number: k1...\n\n510(k) number:",
            "jrt": "510(k) Number: k1. 510(k) number:",
            "jrt-twice": "Information about 510(k) number. 510(k) Number: k1.\n510(k) Number: k1. 510(k) number:",
        },
    ),
]


def completion(passage: str, question: str, sentence: str, more: str = "") -> Row:
    return {"text": f"{passage}\n{sentence}", "context": passage + more, "question": question, "value": "x"}


SQUAD_PROMPTS: list[tuple[Row, dict[str, str]]] = [
    (
        completion("Ann won in 1999.", "When did Ann win?", "Ann won in"),
        {
            "lm-eval-v1": "Ann won in 1999.\nAnn won in",
            "based": "Ann won in 1999.\nAnn won in",
            "jrt": "Ann won in 1999.\nAnn won in",
            "jrt-twice": "When did Ann win? Ann won in 1999.\nAnn won in 1999.\nAnn won in",
        },
    ),
    (
        # What follows "Question:" isn't read first.
        completion("Bees hum.", "What do bees do?", "Bees ", "\nQuestion: What do bees do? Question: again"),
        {
            "lm-eval-v1": "Bees hum.\nBees",
            "based": "Bees hum.\nBees ",
            "jrt": "Bees hum.\nBees",
            "jrt-twice": "What do bees do? Bees hum.\n\nBees hum.\nBees",
        },
    ),
    (
        # Blanks of the text go, those of question and context stay.
        completion("  Cats sleep. ", " Who sleeps? ", "It is"),
        {
            "lm-eval-v1": "Cats sleep. \nIt is",
            "based": "  Cats sleep. \nIt is",
            "jrt": "Cats sleep. \nIt is",
            "jrt-twice": " Who sleeps?    Cats sleep. \nCats sleep. \nIt is",
        },
    ),
    (
        completion("Dots... stay...", "Do they?", "..."),
        {
            "lm-eval-v1": "Dots... stay...\n...",
            "based": "Dots... stay...\n...",
            "jrt": "Dots... stay...\n...",
            "jrt-twice": "Do they? Dots... stay...\nDots... stay...\n...",
        },
    ),
    (
        completion("Question: none.", "Q", "A\n"),
        {
            "lm-eval-v1": "Question: none.\nA",
            "based": "Question: none.\nA\n",
            "jrt": "Question: none.\nA",
            "jrt-twice": "Q \nQuestion: none.\nA",
        },
    ),
]


def asked(context: str, question: str, first: str = "Who?") -> Row:
    return {"context": context, "question": question, "orig_question": first, "answers": ["x", "y"]}


NQ_PROMPTS: list[tuple[Row, dict[str, str]]] = [
    (
        asked(" The sea is deep. ", "how deep is it "),
        {
            "jrt": "The sea is deep. how deep is it",
            "jrt-twice": "Who? The sea is deep.\nThe sea is deep. how deep is it",
        },
    ),
    (
        # Once and in this case, or repeatedly and in any.
        asked("It is old. how old? how old?", "how old?", "how old:"),
        {
            "jrt": "It is old. how old?. how old?",
            "jrt-twice": "how old It is old. how old?.\nIt is old. how old?. how old?",
        },
    ),
    (
        asked("It is old.how old?how old?", "how old?"),
        {"jrt": "It is old.how old?. how old?", "jrt-twice": "Who? It is old.\nIt is old. how old?"},
    ),
    (
        asked("It is old. HOW OLD?", "how old?", ":is it:"),
        {"jrt": "It is old. HOW OLD?. how old?", "jrt-twice": "is it It is old.\nIt is old. how old?"},
    ),
    (
        # Dots at both ends; a blank before the last one.
        asked("..Wide and flat . ", "how wide"),
        {"jrt": "Wide and flat . how wide", "jrt-twice": "Who? Wide and flat.\nWide and flat. how wide"},
    ),
]

TRIVIAQA_PROMPTS: list[tuple[Row, dict[str, str]]] = [
    (
        asked("[DOC] [TLE] Lyra [PAR] Lyra is small.", "What is Lyra?"),
        {
            "jrt": "Lyra  Lyra is small. What is Lyra?",
            "jrt-twice": "Who? Lyra  Lyra is small.\nLyra  Lyra is small. What is Lyra?",
        },
    ),
    (
        # Colons stay in the leading question; [doc] is no mark.
        asked("[doc]A star[PAR]shines[PAR]", "which?", "which:"),
        {"jrt": "[doc]A starshines. which?", "jrt-twice": "which: [doc]A starshines.\n[doc]A starshines. which?"},
    ),
    (
        asked("A comet.WHICH?which?", " which? "),
        {"jrt": "A comet. which?", "jrt-twice": "Who? A comet.\nA comet. which?"},
    ),
    (
        # A question that only a mark keeps from the end, and one that a blank does.
        asked("Moons. which?[PAR]", "which?"),
        {"jrt": "Moons. which?", "jrt-twice": "Who? Moons.\nMoons. which?"},
    ),
    (
        asked("Moons. which? [PAR]", "which?"),
        {"jrt": "Moons. which?. which?", "jrt-twice": "Who? Moons. which?.\nMoons. which?. which?"},
    ),
]

DROP_PROMPTS: list[tuple[Row, dict[str, str]]] = [
    (
        asked("They scored 3, then 4.", "How many in all?"),
        {
            "jrt": "They scored 3, then 4. How many in all?",
            "jrt-twice": "Who? They scored 3, then 4.\nThey scored 3, then 4. How many in all?",
        },
    ),
    (
        asked("Three goals.HOW many?how many?", "How many?", "How many:"),
        {"jrt": "Three goals. How many?", "jrt-twice": "How many Three goals.\nThree goals. How many?"},
    ),
    (
        asked("...Late goals...", "When?", "::When"),
        {"jrt": "Late goals. When?", "jrt-twice": "When Late goals.\nLate goals. When?"},
    ),
    (
        asked("Late . ", "When?"),
        {"jrt": "Late . When?", "jrt-twice": "Who? Late.\nLate. When?"},
    ),
    (
        # A context that is nothing but the question.
        asked("When?when?", "When?"),
        {"jrt": ". When?", "jrt-twice": "Who? .\n. When?"},
    ),
]

PROMPTS = {
    "swde": SWDE_PROMPTS,
    "fda": FDA_PROMPTS,
    "squad": SQUAD_PROMPTS,
    "nq": NQ_PROMPTS,
    "triviaqa": TRIVIAQA_PROMPTS,
    "drop": DROP_PROMPTS,
}
CASES = [
    (protocol, questions, row, prompt)
    for questions, rows in PROMPTS.items()
    for row, prompts in rows
    for protocol, prompt in prompts.items()
]


@pytest.mark.parametrize(("protocol", "questions", "row", "prompt"), CASES)
def test_prompts(protocol: str, questions: str, row: Row, prompt: str) -> None:
    before = dict(row)
    assert FORMS[protocol][questions].prompt(row) == prompt
    assert row == before


def test_every_form_is_tested_on_five_documents() -> None:
    tested = [(protocol, questions) for protocol, questions, _, _ in CASES]
    for protocol, forms in FORMS.items():
        for questions in forms:
            assert tested.count((protocol, questions)) >= 5, (protocol, questions)


@pytest.mark.parametrize(("questions", "theirs"), [("swde", SWDE), ("fda", FDA), ("squad", SQUADCompletion)])
def test_lm_eval_v1_is_upstreams(questions: str, theirs: Any) -> None:
    form, upstream = FORMS["lm-eval-v1"][questions], theirs.__new__(theirs)
    for row, _ in PROMPTS[questions]:
        assert form.prompt(row) == upstream.doc_to_text(row)
        assert form.labels(row) == [upstream.doc_to_target(row)]


def test_labels() -> None:
    row = {"value": " 96 ", "answers": [" a ", "b"]}
    assert FORMS["lm-eval-v1"]["fda"].labels(row) == ["96"]
    assert FORMS["based"]["fda"].labels(row) == FORMS["jrt"]["swde"].labels(row) == [" 96 "]
    assert FORMS["jrt"]["nq"].labels(row) == FORMS["jrt-twice"]["drop"].labels(row) == [" a ", "b"]


def test_documents() -> None:
    jrt = FORMS["jrt"]
    assert document_of({"text": f"Page\nwith lines {SUMMARY} key:"}, jrt["swde"]) == "Page\nwith lines "
    assert document_of({"text": "Page\nwith lines\nkey: \n"}, jrt["fda"]) == "Page\nwith lines"
    assert document_of({"text": "no newline"}, jrt["fda"]) == "no newline"
    assert document_of({"text": "t", "context": "Passage Question: q"}, jrt["squad"]) == "Passage "
    assert document_of({"context": "Passage"}, jrt["drop"]) == "Passage"


# -- the scores ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prediction", "labels", "scores"),
    [
        (" The Eiffel Tower!", ["eiffel tower"], (1, 1, 1.0)),
        ("the tower of Eiffel", ["Eiffel Tower", "Louvre"], (0, 0, 0.8)),  # 2 of 3 words, 2 of 2
        ("in 1999 or so", ["1999", "1998"], (1, 0, 0.4)),
        ("99 99 98", ["99 97"], (0, 0, 0.4)),  # one of the two 99 counts
        ("", ["1999"], (0, 0, 0.0)),
        ("", [""], (1, 1, 1.0)),
        ("the", ["a"], (0, 1, 1.0)),  # nothing but articles on both sides
        ("x", ["the", "y"], (0, 0, 0.0)),
        ("27 kg.", ["27 kg "], (0, 1, 1.0)),  # labels aren't stripped for `contains`
        ("(c.d)*", ["(C.D)*"], (1, 1, 1.0)),
    ],
)
def test_scores(prediction: str, labels: list[str], scores: tuple[int, int, float]) -> None:
    assert (contains(prediction, labels), exact(prediction, labels)) == scores[:2]
    assert f1(prediction, labels) == pytest.approx(scores[2])
