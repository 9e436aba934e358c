"""Tables of parts and the names that options list agree: a part that is in one is in the other."""

from collections.abc import Iterable
from typing import get_args, get_type_hints

import pytest

from fcnseg import config
from fcnseg.config import TrainConfig, VizConfig
from fcnseg.datasets.augment import MIXES
from fcnseg.datasets.describe import FINDERS
from fcnseg.datasets.formats import _READERS
from fcnseg.datasets.formats import FORMATS as LABEL_FORMATS
from fcnseg.engines import ENGINES
from fcnseg.exporting import FORMATS
from fcnseg.inference.outputs import COMBINED, OUTPUTS
from fcnseg.viz.show import SHOWN


@pytest.mark.parametrize(
    ("table", "listed"),
    [
        pytest.param({"auto", "torch", *ENGINES}, config.EngineName, id="engines"),
        pytest.param({*FORMATS, "web"}, config.Format, id="export formats"),  # web: ONNX in a page
        pytest.param({*COMBINED, *OUTPUTS}, config.Output, id="outputs"),  # one file for all frames
        pytest.param(SHOWN, get_args(get_type_hints(VizConfig)["show_what"])[0], id="figures"),
        pytest.param({"none", *MIXES}, get_type_hints(TrainConfig)["mix"], id="mixes"),
    ],
)
def test_a_table_and_its_option_list_the_same(table: Iterable[str], listed: object) -> None:
    assert set(table) == set(get_args(listed))


def test_every_label_format_of_one_file_finds_and_reads() -> None:
    """One line in FORMATS registers both halves."""
    for name, one in LABEL_FORMATS.items():
        assert FINDERS[name] is one
        assert _READERS[name] is one.read
