"""One classifier by OpenVINO: quantized by NNCF, or all texts and each alone, with tokenization.

    python by_openvino.py quantize GRAPH.onnx TOKENIZER.json MAX_LENGTH TEXTS.txt OUT.xml
    python by_openvino.py measure GRAPH.onnx|GRAPH.xml TOKENIZER.json MAX_LENGTH TEXTS.txt f32|bf16 STREAMS

GRAPH.onnx is optimum's fp32 graph. All texts are tokenized at once, sorted by length, and run in batches of 32, as many at a time as
there are streams. Prints one JSON object.
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
    compiled = core.compile_model(core.read_model(graph), "CPU", settings)
    names = [port.any_name for port in compiled.inputs]
    used = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    if used != precision:
        sys.exit(f"this processor computes in {used} where {precision} is asked for")

    def all_at_once(texts):
        labels = [0] * len(texts)
        encodings = tokenizer.encode_batch(texts)
        order = sorted(range(len(texts)), key=lambda index: len(encodings[index].ids))

        def done(request, indices):
            for index, logits in zip(indices, request.get_output_tensor().data):
                labels[index] = int(logits.argmax())

        queue = openvino.AsyncInferQueue(compiled, int(streams))
        queue.set_callback(done)
        for start in range(0, len(order), BATCH):
            indices = order[start : start + BATCH]
            longest = len(encodings[indices[-1]].ids)
            batch = [encodings[index] for index in indices]
            for encoding in batch:
                encoding.pad(longest)
            queue.start_async(inputs(batch, names), indices)
        queue.wait_all()
        return labels

    all_at_once(texts)  # for each new shape code is made
    started = time.perf_counter()
    labels = all_at_once(texts)
    rate = len(texts) / (time.perf_counter() - started)
    request = compiled.create_infer_request()
    milliseconds = []
    for text in texts[:WARM_UP] + texts:
        started = time.perf_counter()
        request.infer(inputs([tokenizer.encode(text)], names))[0].argmax()
        milliseconds.append(1e3 * (time.perf_counter() - started))
    p50 = sorted(milliseconds[WARM_UP:])[len(texts) // 2]
    print(json.dumps({"rows_per_second": rate, "p50_ms": p50, "labels": labels}))


if __name__ == "__main__":
    what, graph, tokenizer, max_length, texts, *rest = sys.argv[1:]
    {"quantize": quantize, "measure": measure}[what](graph, tokenizer, int(max_length), texts, *rest)
