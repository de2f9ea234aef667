"""One classifier by OpenVINO: quantized by NNCF, or all texts and each alone, with tokenization.

    python by_openvino.py quantize GRAPH.onnx TOKENIZER.json MAX_LENGTH TEXTS.txt OUT.xml
    python by_openvino.py measure GRAPH.onnx|GRAPH.xml TOKENIZER.json MAX_LENGTH TEXTS.txt f32|bf16 STREAMS

GRAPH.onnx is optimum's fp32 graph. All texts are tokenized at once, sorted by length, and run in batches of 32, as many at a time as
there are streams. Prints one JSON object, whose figures are those with tokenization, and in "encoded" those without, of
batches that were made before.
"""

import json
import os
import sys
import time

os.environ["CI"] = "true"  # of which nothing is reported

import numpy
import openvino
from tokenizers import Tokenizer

BATCH = 32
WARM_UP = 300
CALIBRATION = 300


def tokenizer_of(path, max_length):
    tokenizer = Tokenizer.from_file(path)
    tokenizer.enable_truncation(max_length)
    tokenizer.no_padding()  # all-MiniLM-L6-v2's file asks for 128 tokens
    return tokenizer


def inputs(encodings, names):
    parts = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
    return {name: numpy.array([getattr(e, parts[name]) for e in encodings], dtype=numpy.int64) for name in names}


def read(path):
    return open(path, encoding="utf-8").read().splitlines()


def quantize(graph, tokenizer, max_length, texts, out):
    import nncf

    model = openvino.Core().read_model(graph)
    names = [port.any_name for port in model.inputs]
    tokenizer = tokenizer_of(tokenizer, max_length)
    data = nncf.Dataset(read(texts)[:CALIBRATION], lambda text: inputs([tokenizer.encode(text)], names))
    quantized = nncf.quantize(model, data, model_type=nncf.ModelType.TRANSFORMER, subset_size=CALIBRATION)
    openvino.save_model(quantized, out, compress_to_fp16=False)


def measure(graph, tokenizer, max_length, texts, precision, streams):
    texts = read(texts)
    tokenizer = tokenizer_of(tokenizer, max_length)
    core = openvino.Core()
    settings = {"NUM_STREAMS": streams, "INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": str(os.cpu_count())}
    started = time.perf_counter()
    compiled = core.compile_model(core.read_model(graph), "CPU", settings)
    load = time.perf_counter() - started
    names = [port.any_name for port in compiled.inputs]
    used = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if used != precision:
        sys.exit(f"this processor computes in {used} where {precision} is asked for")

    def batches(encodings):
        order = sorted(range(len(encodings)), key=lambda index: len(encodings[index].ids))
        for start in range(0, len(order), BATCH):
            indices = order[start : start + BATCH]
            longest = len(encodings[indices[-1]].ids)
            batch = [encodings[index] for index in indices]
            for encoding in batch:
                encoding.pad(longest)
            yield indices, inputs(batch, names)

    def all_at_once(batches):
        logits = [None] * len(texts)

        def done(request, indices):
            for index, row in zip(indices, request.get_output_tensor().data):
                logits[index] = row.copy()

        queue = openvino.AsyncInferQueue(compiled, int(streams))
        queue.set_callback(done)
        for indices, values in batches:
            queue.start_async(values, indices)
        queue.wait_all()
        return logits

    all_at_once(batches(tokenizer.encode_batch(texts)))  # for each new shape code is made
    started = time.perf_counter()
    labels = [int(row.argmax()) for row in all_at_once(batches(tokenizer.encode_batch(texts)))]
    seconds = time.perf_counter() - started
    encoded = list(batches(tokenizer.encode_batch(texts)))
    started = time.perf_counter()
    all_at_once(encoded)
    encoded_seconds = time.perf_counter() - started
    request = compiled.create_infer_request()
    with_tokenization, without = [], []
    for text in texts[:WARM_UP] + texts:
        began = time.perf_counter()
        values = inputs([tokenizer.encode(text)], names)
        tokenized = time.perf_counter()
        request.infer(values)[0].argmax()
        with_tokenization.append(time.perf_counter() - began)
        without.append(time.perf_counter() - tokenized)

    def figures(seconds, singles):
        return {"rows_per_second": len(texts) / seconds, "p50_ms": 1e3 * sorted(singles[-len(texts) :])[len(texts) // 2]}

    result = figures(seconds, with_tokenization)
    print(json.dumps({**result, "encoded": figures(encoded_seconds, without), "load_ms": 1e3 * load, "labels": labels}))


if __name__ == "__main__":
    what, graph, tokenizer, max_length, texts, *rest = sys.argv[1:]
    {"quantize": quantize, "measure": measure}[what](graph, tokenizer, int(max_length), texts, *rest)
