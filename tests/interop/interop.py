"""Whether other programs read what nimbert-train export wrote, and answer alike.

    python interop.py BUNDLE ANSWERS.jsonl TEXTS.txt TINY_BUNDLE TRITON_REPOSITORY CALIBRATED_BUNDLE

BUNDLE holds all variants; ANSWERS are those of `nimbert classify --json` for each line of TEXTS. CALIBRATED_BUNDLE has a
temperature in its graph. TINY_BUNDLE holds all
variants of a model that ONNX's own evaluator can run. Any disagreement is an error.
"""

import json
import os
import sys

import numpy as np
import onnx
import torch
from google.protobuf import text_format
from onnx.reference import ReferenceEvaluator
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer, pipeline
from tritonclient.grpc import model_config_pb2

FP32_TOLERANCE = 1e-4
INT8_TOLERANCE = 1e-3
# The evaluator computes fp16 operator by operator.
FP16_TOLERANCE = 2e-2


def variants(bundle):
    return json.load(open(f"{bundle}/nimbert.json"))["variants"]


def check_graphs(bundle):
    for variant in variants(bundle):
        path = f"{bundle}/{variant['file']}"
        onnx.checker.check_model(path, full_check=True)
        inferred = onnx.shape_inference.infer_shapes(onnx.load(path), data_prop=True)
        (output,) = inferred.graph.output
        assert output.name == "logits" and len(output.type.tensor_type.shape.dim) == 2, output
        print(f"onnx.checker and shape inference: {path}")


def check_pipelines(bundle, texts, answers):
    """optimum's model in transformers' pipeline gives the labels and scores of nimbert."""
    tokenizer = AutoTokenizer.from_pretrained(bundle)
    for variant in variants(bundle):
        if variant["execution_provider"] != "cpu":
            continue
        tolerance = INT8_TOLERANCE if variant["precision"] == "int8" else FP32_TOLERANCE
        model = ORTModelForSequenceClassification.from_pretrained(bundle, file_name=variant["file"])
        classify = pipeline("text-classification", model=model, tokenizer=tokenizer, top_k=None)
        largest = 0.0
        for start in range(0, len(texts), 16):
            results = classify(texts[start : start + 16], batch_size=16)
            for text, result, answer in zip(texts[start:], results, answers[variant["name"]][start:]):
                assert result[0]["label"] == answer["label"], (text, result, answer)
                for entry in result:
                    largest = max(largest, abs(entry["score"] - answer["scores"][entry["label"]]))
        assert largest <= tolerance, (variant["name"], largest)
        print(f"optimum and transformers.pipeline: {variant['name']}, {len(texts)} texts, scores within {largest:.1e}")


def check_tensorrt(bundle):
    """The rules of TensorRT's documentation for explicit quantization, as far as a graph shows them."""
    for variant in variants(bundle):
        if variant["execution_provider"] != "tensorrt":
            continue
        graph = onnx.load(f"{bundle}/{variant['file']}").graph
        constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
        makers = {output: node for node in graph.node for output in node.output}
        readers = {}
        for node in graph.node:
            assert node.domain in ("", "ai.onnx"), node.op_type
            for value in node.input:
                readers.setdefault(value, []).append(node)
        pairs = 0
        for node in graph.node:
            if node.op_type == "QuantizeLinear":
                # Signed bytes around 0, one scale a tensor, and brought back at once.
                zero_point = constants[node.input[2]]
                assert zero_point.dtype == np.int8 and zero_point == 0 and constants[node.input[1]].shape == ()
                assert all(reader.op_type == "DequantizeLinear" for reader in readers[node.output[0]]), node.name
                pairs += 1
            if node.op_type == "DequantizeLinear" and node.input[0] in constants:
                # A weight: one scale a channel, and its zero points are 0.
                assert constants[node.input[0]].dtype == np.int8 and not constants[node.input[2]].any(), node.name
                assert constants[node.input[1]].shape == (constants[node.input[0]].shape[1],), node.name
                # A product of which both operands are quantized.
                (reader,) = readers[node.output[0]]
                assert reader.op_type == "MatMul" and makers[reader.input[0]].op_type == "DequantizeLinear", node.name
        assert (pairs > 0) == (variant["precision"] == "int8")
        print(f"TensorRT's rules: {variant['name']}, {pairs} quantized activations, standard operators only")


def check_reference(bundle):
    """ONNX's own evaluator, in Python, on the graphs of standard operators."""
    config = json.load(open(f"{bundle}/config.json"))
    random = np.random.default_rng(0)
    ids = random.integers(5, config["vocab_size"], size=(4, 12), dtype=np.int64)
    mask = np.array([[1] * length + [0] * (12 - length) for length in (12, 7, 3, 9)], dtype=np.int64)
    inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    reference = ORTModelForSequenceClassification.from_pretrained(bundle, file_name="model.onnx")
    expected = reference(**{name: torch.from_numpy(values) for name, values in inputs.items()}).logits.numpy()
    for variant in variants(bundle):
        if variant["name"] != "tensorrt-fp16":
            continue
        evaluator = ReferenceEvaluator(f"{bundle}/{variant['file']}")
        wanted = {name: inputs[name] for name in evaluator.input_names}
        (logits,) = evaluator.run(None, wanted)
        difference = np.abs(logits - expected).max()
        assert difference <= FP16_TOLERANCE * max(1, np.abs(expected).max()), difference
        print(f"onnx.reference: {variant['name']}, logits within {difference:.1e} of fp32")


def check_triton(repository):
    (name,) = os.listdir(repository)
    config = text_format.Parse(open(f"{repository}/{name}/config.pbtxt").read(), model_config_pb2.ModelConfig())
    assert config.name == name and config.backend == "onnxruntime" and config.max_batch_size > 0
    assert config.HasField("dynamic_batching") and len(config.instance_group) == 1
    graph = onnx.load(f"{repository}/{name}/1/model.onnx", load_external_data=False).graph
    kinds = {model_config_pb2.TYPE_INT64: onnx.TensorProto.INT64, model_config_pb2.TYPE_FP32: onnx.TensorProto.FLOAT}
    for ours, theirs in ((graph.input, config.input), (graph.output, config.output)):
        assert [value.name for value in ours] == [value.name for value in theirs]
        for value, entry in zip(ours, theirs):
            dims = value.type.tensor_type.shape.dim[1:]
            assert kinds[entry.data_type] == value.type.tensor_type.elem_type
            assert [dim.dim_value or -1 for dim in dims] == list(entry.dims), entry
    for output in config.output:
        labels = open(f"{repository}/{name}/{output.label_filename}").read().split()
        assert len(labels) == output.dims[0]
    print(f"Triton's ModelConfig: {repository}/{name}/config.pbtxt")


def main():
    bundle, answers, texts, tiny, repository, calibrated = sys.argv[1:]
    texts = open(texts, encoding="utf-8").read().splitlines()
    answers = {
        name: [json.loads(line) for line in open(f"{answers}.{name}", encoding="utf-8")]
        for name in ("cpu-int8", "cpu-fp32", "calibrated")
    }
    for folder in (bundle, tiny):
        check_graphs(folder)
        check_tensorrt(folder)
    check_pipelines(bundle, texts, answers)
    assert json.load(open(f"{calibrated}/nimbert.json"))["folded_temperature"] != 1
    check_pipelines(calibrated, texts, {"cpu-int8": answers["calibrated"]})
    check_reference(tiny)
    check_triton(repository)


if __name__ == "__main__":
    main()
