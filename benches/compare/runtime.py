"""One classifier by optimum and transformers: all texts through a pipeline, single texts, or the first text of a process.

    python runtime.py MODEL_DIR GRAPH.onnx pipeline TEXTS.txt
    python runtime.py MODEL_DIR GRAPH.onnx singles TEXTS.txt
    python runtime.py MODEL_DIR GRAPH.onnx first TEXT

MODEL_DIR is the folder that optimum exported, GRAPH.onnx one of the graphs in it. Prints one JSON object.
"""

import json
import os
import sys
import time

import onnxruntime
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer, pipeline

BATCH = 32
MAX_LENGTH = 128
WARM_UP = 10


def main():
    folder, graph, what, argument = sys.argv[1:]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = os.cpu_count()
    model = ORTModelForSequenceClassification.from_pretrained(folder, file_name=graph, session_options=options)
    tokenizer = AutoTokenizer.from_pretrained(folder, model_max_length=MAX_LENGTH)
    if what == "first":
        classify = pipeline("text-classification", model=model, tokenizer=tokenizer)
        print(json.dumps(classify(argument)[0]))
        return
    texts = open(argument).read().splitlines()
    if what == "pipeline":
        classify = pipeline("text-classification", model=model, tokenizer=tokenizer)
        classify(texts[:BATCH], batch_size=BATCH)
        started = time.perf_counter()
        results = classify(texts, batch_size=BATCH, truncation=True)
        seconds = time.perf_counter() - started
        labels = [result["label"] for result in results]
        print(json.dumps({"rows_per_second": len(texts) / seconds, "labels": labels}))
        return
    milliseconds = []
    for text in texts[:WARM_UP] + texts:
        started = time.perf_counter()
        model(**tokenizer(text, return_tensors="np", truncation=True)).logits.argmax()
        milliseconds.append(1e3 * (time.perf_counter() - started))
    print(json.dumps({"milliseconds": milliseconds[WARM_UP:]}))


if __name__ == "__main__":
    main()
