"""Graphs of one classifier, measured in turn by ONNX Runtime: size, loading, speed, accuracy, difference.

    python graphs.py MODEL_DIR TEST_CSV [--threads N] [--texts N] NAME=GRAPH...

MODEL_DIR is a Hugging Face folder with the tokenizer; TEST_CSV has the columns text and label. The first graph is the
reference for logits. Prints one JSON object.
"""

import argparse
import csv
import gc
import json
import os
import statistics
import time

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper
from tokenizers import Tokenizer

# Rows a batch of bulk work: large batches of long rows leave the caches, so each graph has its choice.
BATCHES = (1, 32)
ROUNDS = 3
# Single texts that a graph gets at a time, and how many of them it gets before for warming up.
TURN = 25
WARM_UP = 5


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("test")
    parser.add_argument("graphs", nargs="+")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--texts", type=int, default=400)
    parser.add_argument("--max-length", type=int, default=128)
    return parser.parse_args()


def session(path, threads):
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # Threads that still spin after a run would take a core from the graph whose turn is next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def batch(encodings, names):
    longest = max(len(encoding.ids) for encoding in encodings)
    padded = lambda values: np.array([row + [0] * (longest - len(row)) for row in values], dtype=np.int64)
    inputs = {
        "input_ids": padded([encoding.ids for encoding in encodings]),
        "attention_mask": padded([[1] * len(encoding.ids) for encoding in encodings]),
        "token_type_ids": padded([encoding.type_ids for encoding in encodings]),
    }
    return {name: inputs[name] for name in names}


def peak(op_type, left, right, threads):
    """10⁹ operations a second of a product of two square matrices, the best of some."""
    edge = 1024
    shape = [edge, edge]
    b = helper.make_tensor("b", right, shape, np.ones(shape, dtype=helper.tensor_dtype_to_np_dtype(right)).tobytes(), raw=True)
    output = TensorProto.FLOAT if op_type == "MatMul" else TensorProto.INT32
    graph = helper.make_graph(
        [helper.make_node(op_type, ["a", "b"], ["c"])],
        "peak",
        [helper.make_tensor_value_info("a", left, shape)],
        [helper.make_tensor_value_info("c", output, shape)],
        [b],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    product = session(model.SerializeToString(), threads)
    a = np.ones(shape, dtype=helper.tensor_dtype_to_np_dtype(left))
    times = []
    for _ in range(20):
        started = time.perf_counter()
        product.run(None, {"a": a})
        times.append(time.perf_counter() - started)
    return 2 * edge**3 / min(times) / 1e9


def size(path):
    """The graph and the file of its large tensors, where there is one."""
    return sum(os.path.getsize(name) for name in (path, path + "_data") if os.path.exists(name))


def main():
    args = arguments()
    graphs = dict(graph.split("=", 1) for graph in args.graphs)
    labels = {label: int(index) for index, label in json.load(open(f"{args.model}/config.json"))["id2label"].items()}
    rows = list(csv.DictReader(open(args.test, newline="")))
    tokenizer = Tokenizer.from_file(f"{args.model}/tokenizer.json")
    tokenizer.no_padding()
    tokenizer.enable_truncation(args.max_length)
    encodings = tokenizer.encode_batch([row["text"] for row in rows])
    expected = np.array([labels[row["label"]] for row in rows])
    order = sorted(range(len(rows)), key=lambda row: len(encodings[row].ids))

    loads = {name: [] for name in graphs}
    for _ in range(5):
        for name, path in graphs.items():
            started = time.perf_counter()
            loaded = session(path, args.threads)
            loads[name].append(time.perf_counter() - started)
            del loaded
            gc.collect()
    sessions = {name: session(path, args.threads) for name, path in graphs.items()}
    names = {name: [value.name for value in graph.get_inputs()] for name, graph in sessions.items()}

    # The graphs take turns by the dozen: text by text, the threads of the one would still be spinning when the next begins.
    singles = {name: [] for name in graphs}
    for start in range(0, args.texts, TURN):
        for name, graph in sessions.items():
            inputs = [batch([encoding], names[name]) for encoding in encodings[start : min(start + TURN, args.texts)]]
            for values in inputs[:WARM_UP]:
                graph.run(["logits"], values)
            for values in inputs:
                started = time.perf_counter()
                graph.run(["logits"], values)
                singles[name].append(time.perf_counter() - started)

    # Batch by batch in turn: a batch takes long enough.
    logits = {name: np.zeros((len(rows), len(labels)), dtype=np.float32) for name in graphs}
    bulk = {name: dict.fromkeys(BATCHES, 0.0) for name in graphs}
    for size_of_batch in BATCHES:
        batches = [order[start : start + size_of_batch] for start in range(0, len(order), size_of_batch)]
        for _ in range(ROUNDS):
            for indices in batches:
                for name, graph in sessions.items():
                    values = batch([encodings[row] for row in indices], names[name])
                    started = time.perf_counter()
                    logits[name][indices] = graph.run(["logits"], values)[0]
                    bulk[name][size_of_batch] += time.perf_counter() - started

    reference = logits[next(iter(graphs))]
    result = {}
    for name, path in graphs.items():
        difference = np.abs(logits[name] - reference).max(axis=1)
        predicted = logits[name].argmax(axis=1)
        result[name] = {
            "bytes": size(path),
            "load_ms": 1e3 * statistics.median(loads[name]),
            "p50_ms": 1e3 * statistics.median(singles[name]),
            "rows_per_second": ROUNDS * len(rows) / min(bulk[name].values()),
            "accuracy": float((predicted == expected).mean()),
            "agreement": float((predicted == reference.argmax(axis=1)).mean()),
            "max_logit_difference": float(difference.max()),
            "differs_most": int(difference.argmax()),
        }
    print(
        json.dumps(
            {
                "texts": len(rows),
                "tokens": sum(len(encoding.ids) for encoding in encodings),
                "fp32_gflops": peak("MatMul", TensorProto.FLOAT, TensorProto.FLOAT, args.threads),
                "int8_gflops": peak("MatMulInteger", TensorProto.UINT8, TensorProto.INT8, args.threads),
                "graphs": result,
            }
        )
    )


if __name__ == "__main__":
    main()
