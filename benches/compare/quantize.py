"""Other ways to quantize a plain fp32 graph, for comparison.

    python quantize.py GRAPH OUT_DIR

Writes dynamic-tensor.onnx (activations by one scale for the whole batch), dynamic-row.onnx (one scale a token),
weights-8.onnx and weights-4.onnx (weights in blocks of 32, arithmetic in fp32).
"""

import sys

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer


def dynamic_rows(model):
    """MatMul by a constant as MatMulInteger, its other operand quantized row by row around 128."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    added = [
        numpy_helper.from_array(np.float32(1 / 127), "rows/inverse_max"),
        numpy_helper.from_array(np.finfo(np.float32).tiny, "rows/smallest"),
        numpy_helper.from_array(np.float32(1), "rows/one"),
        numpy_helper.from_array(np.uint8(128), "rows/middle"),
        numpy_helper.from_array(np.array([-1], dtype=np.int64), "rows/axis"),
    ]
    nodes, quantized, replaced = [], set(), set()
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    for node in model.graph.node:
        weight = node.op_type == "MatMul" and constants.get(node.input[1])
        if not weight or len(weight.dims) != 2:
            nodes.append(node)
            continue
        x, name = node.input[0], node.name
        values = numpy_helper.to_array(weight)
        scale = np.abs(values).max(axis=0) / 64
        integers = np.clip(np.round(values / scale), -64, 64).astype(np.int8)
        added += [numpy_helper.from_array(integers, f"{name}/int8"), numpy_helper.from_array(scale, f"{name}/scale")]
        replaced.add(weight.name)
        if x not in quantized:
            quantized.add(x)
            largest = (
                helper.make_node("ReduceMax", [f"{x}/absolute", "rows/axis"], [f"{x}/largest"])
                if opset >= 18
                else helper.make_node("ReduceMax", [f"{x}/absolute"], [f"{x}/largest"], axes=[-1])
            )
            nodes += [
                helper.make_node("Abs", [x], [f"{x}/absolute"]),
                largest,
                helper.make_node("Mul", [f"{x}/largest", "rows/inverse_max"], [f"{x}/unbounded"]),
                helper.make_node("Max", [f"{x}/unbounded", "rows/smallest"], [f"{x}/scale"]),
                helper.make_node("Div", [x, f"{x}/scale"], [f"{x}/scaled"]),
                helper.make_node("QuantizeLinear", [f"{x}/scaled", "rows/one", "rows/middle"], [f"{x}/uint8"]),
            ]
        nodes += [
            helper.make_node("MatMulInteger", [f"{x}/uint8", f"{name}/int8", "rows/middle"], [f"{name}/integer"]),
            helper.make_node("Cast", [f"{name}/integer"], [f"{name}/float"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Mul", [f"{name}/float", f"{x}/scale"], [f"{name}/row_scaled"]),
            helper.make_node("Mul", [f"{name}/row_scaled", f"{name}/scale"], list(node.output)),
        ]
    kept = [tensor for tensor in model.graph.initializer if tensor.name not in replaced]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(kept + added)
    return model


def main():
    path, out = sys.argv[1:]
    onnx.save(dynamic_rows(onnx.load(path)), f"{out}/dynamic-row.onnx")
    quantize_dynamic(path, f"{out}/dynamic-tensor.onnx", per_channel=True, reduce_range=True, weight_type=QuantType.QInt8)
    for bits in (8, 4):
        quantizer = MatMulNBitsQuantizer(onnx.load(path), bits=bits, block_size=32, is_symmetric=True)
        quantizer.process()
        quantizer.model.save_model_to_file(f"{out}/weights-{bits}.onnx")


if __name__ == "__main__":
    main()
