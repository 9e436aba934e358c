"""Labels in an ONNX graph without the logits of every class at every pixel.

Between four elements of the scores the logits are bilinear. If one class is the best at all four,
it is the best in between. In the other squares only classes that can win (engines.base.can_win)
are upsampled; squares are grouped by their number.

The first square is computed in every group, so that none is empty: an empty TopK crashes the
process in ONNX Runtime up to 1.31. The last group has enough classes for it and overwrites it.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcnseg.engines.base import ROUNDING_ERROR, ScoreGrid

_END_OF_AXIS = 2**31 - 1

LIMITS = (3, 6, 12, 24, 255)
"""Groups of squares: maximum number of classes that can win."""

_BEGINNING = """
labels (float[N, K, h, w] scores, uint8[batch, height, width, C] images)
    => (uint8[batch, height, width] labels)
{
    padded = Pad <mode = "edge"> (scores, margins)
    by_place = Transpose <perm = [0, 2, 3, 1]> (padded)
    winner = ArgMax <axis = 3, keepdims = 0> (by_place)
    one = Slice (winner, from_first, to_last, axes)
    two = Slice (winner, from_right, to_last_below, axes)
    three = Slice (winner, from_below, to_last_right, axes)
    four = Slice (winner, from_both, to_end, axes)
    same_above = Equal (one, two)
    same_below = Equal (three, four)
    same_left = Equal (one, three)
    same_rows = And (same_above, same_below)
    same = And (same_rows, same_left)
    mixed = Not (same)
    places_by_axis = NonZero (mixed)
    places_mixed = Transpose <perm = [1, 0]> (places_by_axis)
    places = Concat <axis = 0> (places_mixed, first_place)
    places_right = Add (places, right)
    places_below = Add (places, below)
    places_both = Add (places, both)
    corner_one = GatherND (by_place, places)
    corner_two = GatherND (by_place, places_right)
    corner_three = GatherND (by_place, places_below)
    corner_four = GatherND (by_place, places_both)
    lowest = Min (corner_one, corner_two, corner_three, corner_four)
    highest = Max (corner_one, corner_two, corner_three, corner_four)
    sure = ReduceMax <keepdims = 1> (lowest, axis_1)
    least = ReduceMin <keepdims = 1> (lowest, axis_1)
    most = ReduceMax <keepdims = 1> (highest, axis_1)
    least_negated = Neg (least)
    largest = Max (least_negated, most)
    lost = Mul (largest, rounding)
    needed = Sub (sure, lost)
    possible = GreaterOrEqual (highest, needed)
    possible_int = Cast <to = 7> (possible)
    count = ReduceSum <keepdims = 0> (possible_int, axis_1)
    highest_count = ReduceMax <keepdims = 0> (count, axis_0)
    number_of_classes = Shape <start = 1, end = 2> (scores)
    classes_int = Squeeze (number_of_classes)
    class = Range (zero, classes_int, step)
    from_end = Sub (number_of_classes, class)
    rank = Cast <to = 1> (from_end)
    order = Where (possible, rank, nothing)
    corners_by_class = Concat <axis = 1> (corner_one, corner_two, corner_three, corner_four)
    corners_shape = Concat <axis = 0> (all, four_corners, number_of_classes)
    corners = Reshape (corners_by_class, corners_shape)
    corner_label = Cast <to = 2> (one)
    corner_labels = Unsqueeze (corner_label, axis_3)
    squares_shape_start = Shape (one)
    squares_shape = Concat <axis = 0> (squares_shape_start, pixels)
    squares_0 = Expand (corner_labels, squares_shape)
"""

_GROUP = """
    above_{at} = Greater (count, limit_{at})
    within_{at} = LessOrEqual (count, limit_{next})
    here_{at} = And (above_{at}, within_{at})
    rows_in_2d_{at} = NonZero (here_{at})
    rows_within_{at} = Squeeze (rows_in_2d_{at}, axis_0)
    rows_{at} = Concat <axis = 0> (rows_within_{at}, last_row)
    k_{at} = Min (limit_{next}, highest_count, number_of_classes)
    order_{at} = Gather <axis = 0> (order, rows_{at})
    ranks_{at}, chosen_{at} = TopK <axis = 1> (order_{at}, k_{at})
    corners_of_all_{at} = Gather <axis = 0> (corners, rows_{at})
    chosen_in_3d_{at} = Unsqueeze (chosen_{at}, axis_1)
    chosen_shape_{at} = Concat <axis = 0> (one_each, four_corners, one_each)
    chosen_four_{at} = Expand (chosen_in_3d_{at}, chosen_shape_{at})
    corners_{at} = GatherElements <axis = 2> (corners_of_all_{at}, chosen_four_{at})
    logits_{at} = MatMul (weights, corners_{at})
    best_{at} = ArgMax <axis = 2, keepdims = 0> (logits_{at})
    found_{at} = GatherElements <axis = 1> (chosen_{at}, best_{at})
    found_labels_{at} = Cast <to = 2> (found_{at})
    places_{at} = Gather <axis = 0> (places, rows_{at})
    squares_{next} = ScatterND (squares_{at}, places_{at}, found_labels_{at})
"""

_END = """
    side_by_side_shape = Concat <axis = 0> (squares_shape_start, factor, factor)
    side_by_side = Reshape (squares_last, side_by_side_shape)
    in_rows = Transpose <perm = [0, 1, 3, 2, 4]> (side_by_side)
    whole_shape_in_squares = Mul (squares_shape_start, factors)
    whole = Reshape (in_rows, whole_shape_in_squares)
    size = Shape <start = 1, end = 3> (images)
    ends = Add (size, cut)
    labels = Slice (whole, cut, ends, axes)
}
"""


def labels_model(grid: ScoreGrid, like: Any) -> Any:
    """An onnx.ModelProto: scores float32 (N, K, h, w), images (N, H, W, C) -> labels (N, H, W).

    like: a model with the same opset versions.
    """
    import onnx

    groups = [_GROUP.format(at=at, next=at + 1) for at in range(len(LIMITS))]
    end = _END.replace("squares_last", f"squares_{len(LIMITS)}")
    graph = onnx.parser.parse_graph("".join([_BEGINNING, *groups, end]))
    for name, array in _constants(grid).items():
        graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    for number, node in enumerate(graph.node):
        node.name = f"{node.op_type}_{number}"
    return onnx.helper.make_model(graph, opset_imports=like.opset_import)


def _constants(grid: ScoreGrid) -> dict[str, NDArray[Any]]:
    factor, first = grid.factor, math.ceil(grid.shift)  # the first pixel that follows an element
    # Elements repeated before the first one, and pixels between these that lie outside the image.
    before = int(first > 0)
    cut = before * (factor - first)
    t = np.asarray((first - grid.shift + np.arange(factor)) / factor, np.float32)  # of each pixel
    across = np.stack([1 - t, t])  # (2, factor)
    weights = np.einsum("ay,bx->yxab", across, across).reshape(factor * factor, 4)
    lists: dict[str, list[int]] = {
        "margins": [0, 0, before, before, 0, 0, 1, 1],
        "axes": [1, 2],
        "from_first": [0, 0], "to_last": [-1, -1],
        "from_right": [0, 1], "to_last_below": [-1, _END_OF_AXIS],
        "from_below": [1, 0], "to_last_right": [_END_OF_AXIS, -1],
        "from_both": [1, 1], "to_end": [_END_OF_AXIS, _END_OF_AXIS],
        "right": [0, 0, 1], "below": [0, 1, 0], "both": [0, 1, 1],
        "axis_0": [0], "axis_1": [1], "axis_3": [3], "all": [-1], "last_row": [-1],
        "one_each": [1], "four_corners": [4], "pixels": [factor * factor], "factor": [factor],
        "factors": [1, factor, factor], "cut": [cut] * 2,
        **{f"limit_{at}": [limit] for at, limit in enumerate((0, *LIMITS))},
    }  # fmt: skip
    arrays: dict[str, NDArray[Any]] = {
        name: np.array(values, np.int64) for name, values in lists.items()
    }
    arrays |= {"zero": np.array(0, np.int64), "step": np.array(1, np.int64)}
    arrays |= {"first_place": np.zeros((1, 3), np.int64)}
    arrays |= {"nothing": np.zeros(1, np.float32)}
    arrays |= {"rounding": np.array([ROUNDING_ERROR], np.float32)}
    return arrays | {"weights": np.ascontiguousarray(weights, np.float32)}
