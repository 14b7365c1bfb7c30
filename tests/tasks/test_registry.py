"""Names of tasks."""

from pathlib import Path

import pytest

from lengthwise.data.tokenizers import ByteTokenizer
from lengthwise.errors import InputError
from lengthwise.tasks.base import Task
from lengthwise.tasks.library import Library, TaskOptions
from lengthwise.tasks.registry import FAMILIES, GROUPS, expand, make_task, make_tasks

RULER = [
    "niah_single_1",
    "niah_single_2",
    "niah_single_3",
    "niah_multikey_1",
    "niah_multikey_2",
    "niah_multikey_3",
    "niah_multivalue",
    "niah_multiquery",
    "vt",
    "cwe",
    "fwe",
    "qa_1",
    "qa_2",
]


def test_groups_hold_what_they_say() -> None:
    assert list(expand("ruler")) == RULER
    assert list(expand("niah")) == RULER[:8]
    assert len(expand("needle-grid")) == 3 * 3 * 3 * 5
    assert len(expand("niah-depth")) == 3 * 7
    assert len(expand("niah-format")) == 3 * 3


def test_cells_average_members() -> None:
    cells = GROUPS["niah-depth"].cells
    assert list(cells) == [f"depth {depth}" for depth in (0, 20, 40, 50, 60, 80, 100)]
    assert cells["depth 50"] == (
        "niah_grid:haystack=prose,key=word,value=number,depth=50",
        "niah_grid:haystack=prose,key=word,value=uuid,depth=50",
        "niah_grid:haystack=line,key=word,value=number,depth=50",
    )
    for name, group in GROUPS.items():
        for members in group.cells.values():
            assert {full for member in members for full in expand(member)} <= set(expand(name))


def test_parameters_come_in_one_order() -> None:
    assert expand("niah_grid:depth=50,haystack=line") == expand("niah_grid:haystack=line,depth=50")
    assert expand("niah_grid:depth=0+100") == ("niah_grid:depth=0", "niah_grid:depth=100")
    assert expand("vt:hops=6") == ("vt:hops=6",)


def test_every_family_makes_a_task(library: Library) -> None:
    for name in FAMILIES:
        task = make_task(name, library)
        assert isinstance(task, Task)
        assert task.name == name
        assert task.scorers()
        if name.startswith("babilong"):
            with pytest.raises(InputError, match="lengthwise data get babi"):
                task.parameters()
        else:
            assert task.parameters()
    assert [task.name for task in make_tasks(["vt", "ruler", "vt:hops=4"])] == [
        "vt",
        *RULER[:8],
        *RULER[9:],
        "vt:hops=4",
    ]


def test_families_of_the_length_paper(library: Library) -> None:
    depths = make_tasks(["passkey-depth"])
    assert [task.name for task in depths] == ["passkey:depth=0.1", "passkey:depth=0.5", "passkey:depth=0.9"]
    assert [task.parameters()["depths"] for task in depths] == [(0.1,), (0.5,), (0.9,)]
    sample = depths[1].samples([0], 600, ByteTokenizer(), 0)[0]
    assert (sample.task, sample.id) == ("passkey:depth=0.5", "passkey:depth=0.5/600/00000")
    assert [task.name for task in make_tasks(["babilong"])] == [f"babilong_qa{number}" for number in range(1, 6)]
    assert len(expand("babilong-all")) == 20
    assert make_task("copying:letters=10", library).floor == 0.1
    assert make_task("copying:shortest=5,longest=20", library).parameters()["longest"] == 20
    assert not make_task("copying", library).parameters()["free_running"]
    assert make_task("copying_free", library).parameters()["free_running"]


def test_babilong_looks_into_the_data_folder(tmp_path: Path) -> None:
    books = tmp_path / "book.txt"
    options = TaskOptions(data_dir=tmp_path, books=(books,))
    parameters = make_task("babilong_qa3", Library(options)).config
    assert (parameters.babi, parameters.books) == (str(tmp_path / "babi"), (str(books),))


def test_binary_tasks_are_those_with_one_answer(library: Library) -> None:
    binary = {name for name in RULER if make_task(name, library).binary}
    assert binary == {name for name in RULER if name.startswith(("niah_single", "niah_multikey", "qa"))}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("niah_singel_1", "did you mean 'niah_single_1'"),
        ("rular", "did you mean 'ruler'"),
        ("niah_grid:haystak=prose", "did you mean 'haystack'"),
        ("niah_grid:haystack=prosa", "did you mean 'prose'"),
        ("niah_grid:key=uid", "did you mean 'uuid'"),
        ("niah_grid:depth=deep", "a number as depth"),
        ("niah_grid:depth=150", "a depth between 0"),
        ("niah_grid:haystack=line,haystack_file=x.txt", "leave one of the two out"),
        ("niah_grid:depth", "parameters as key=value"),
        ("niah_grid:depth=1,depth=2", "each once"),
        ("vt:hops=0", "1 to 20 hops"),
        ("vt:hops=2.5", "1 to 20 hops"),
        ("fwe:alpha=1", "an exponent above 1"),
        ("cwe:x=1", "a parameter of cwe"),
    ],
)
def test_wrong_names_are_explained(name: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        make_tasks([name])
    assert message in str(caught.value)
    assert name.partition(":")[0] in str(caught.value)


def test_a_model_template_needs_a_copy_of_ruler() -> None:
    with pytest.raises(InputError, match="a copy of RULER to read the model template from"):
        TaskOptions(model_template="meta-chat")
