"""ONNX files whose answers are known: some answer with constants, one finds red areas."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper, parser

FINDER = """
<ir_version: 8, opset_import: ["" : 17]>
finder (float[1,3,{height},{width}] images) => (float[1,7,1] output0)
<int64[3] planes = {{1, 1, 1}}, int64[1] one = {{1}}, int64[1] all = {{-1}}, float step = {{0.5}}, float two = {{2}},
float sure = {{0.9}}, int64[3] form = {{1, 1, 1}}, float[1,1,1] none = {{0}}>
{{
  red, green, blue = Split <axis = 1> (images, planes)
  distance = Sub (red, green)
  is_red = Greater (distance, step)
  mask = Cast <to = 1> (is_red)
  columns = ReduceMax <axes = [0, 1, 2], keepdims = 0> (mask)
  rows = ReduceMax <axes = [0, 1, 3], keepdims = 0> (mask)
  x0_ = ArgMax <axis = 0, keepdims = 1> (columns)
  x1_ = ArgMax <axis = 0, keepdims = 1, select_last_index = 1> (columns)
  y0_ = ArgMax <axis = 0, keepdims = 1> (rows)
  y1_ = ArgMax <axis = 0, keepdims = 1, select_last_index = 1> (rows)
  x2_ = Add (x1_, one)
  y2_ = Add (y1_, one)
  x0 = Cast <to = 1> (x0_)
  x2 = Cast <to = 1> (x2_)
  y0 = Cast <to = 1> (y0_)
  y2 = Cast <to = 1> (y2_)
  w = Sub (x2, x0)
  h = Sub (y2, y0)
  xs = Add (x0, x2)
  ys = Add (y0, y2)
  cx = Div (xs, two)
  cy = Div (ys, two)
  any = ReduceMax <axes = [0, 1, 2, 3], keepdims = 0> (mask)
  score_ = Mul (any, sure)
  score = Reshape (score_, form)
  cx3 = Reshape (cx, form)
  cy3 = Reshape (cy, form)
  w3 = Reshape (w, form)
  h3 = Reshape (h, form)
  output0 = Concat <axis = 1> (cx3, cy3, w3, h3, none, score, none)
}}
"""


def red_finder(path: Path, size: tuple[int, int]) -> str:
    """Write a YOLO-like file for inputs of ``size`` (height, width).

    It gives one box around all pixels whose red is above their green by 0.5, of label 1 of 3 and score 0.9.
    """
    onnx.save(parser.parse_model(FINDER.format(height=size[0], width=size[1])), path)
    return str(path)


def constant(
    path: Path,
    outputs: Mapping[str, np.ndarray],
    shape: tuple[int | str, ...] = (1, 3, 64, 64),
    inputs: int = 1,
    element_type: int = TensorProto.FLOAT,
) -> str:
    """Write a file that answers every input with ``outputs``."""
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(value, np.float32)))
        for name, value in outputs.items()
    ]
    given = [helper.make_tensor_value_info(f"images{i or ''}", element_type, shape) for i in range(inputs)]
    answers = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, np.asarray(value).shape)
        for name, value in outputs.items()
    ]
    graph = helper.make_graph(nodes, "constant", given, answers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return str(path)


def brightness(path: Path, size: tuple[int, int], element_type: int = TensorProto.FLOAT) -> str:
    """Write a YOLO-like file of three labels, with one box in the middle of the input.

    The scores are the means of the three channels; of an input in bytes, divided by 255.
    """
    text = """
<ir_version: 8, opset_import: ["" : 17]>
means ({element_type}[{shape}] images) => (float[1,7,1] output0)
<float[1,4,1] box = {{{box}}}, int64[3] form = {{1, 3, 1}}, float most = {{{most}}}>
{{
  given = Cast <to = 1> (images)
  values = Div (given, most)
  mean = ReduceMean <axes = [{axes}], keepdims = 0> (values)
  scores = Reshape (mean, form)
  output0 = Concat <axis = 1> (box, scores)
}}
"""
    last = element_type == TensorProto.UINT8
    box = f"{size[1] / 2}, {size[0] / 2}, {size[1] / 2}, {size[0] / 2}"
    shape = f"1,{size[0]},{size[1]},3" if last else f"1,3,{size[0]},{size[1]}"
    name = {TensorProto.FLOAT: "float", TensorProto.FLOAT16: "float16", TensorProto.UINT8: "uint8"}[element_type]
    onnx.save(
        parser.parse_model(
            text.format(
                element_type=name, shape=shape, box=box, most=255 if last else 1, axes="1, 2" if last else "2, 3"
            )
        ),
        path,
    )
    return str(path)
