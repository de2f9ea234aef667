"""Classifiers without attention that others make: TF-IDF, and Model2Vec's table of an encoder, each with logistic regression.

static.py BASE TRAIN.csv TEST.csv: one JSON object a line, with accuracy, size in bytes and rows a second.
"""

import csv
import json
import pickle
import sys
import tempfile
import time
from pathlib import Path

from model2vec.distill import distill
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline


def read(path):
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in rows], [row["label"] for row in rows]


def report(name, size, predict, texts, labels):
    predict(texts[:100])
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        answers = predict(texts)
        best = min(best, time.perf_counter() - began)
    right = sum(answer == label for answer, label in zip(answers, labels))
    print(json.dumps({
        "name": name, "accuracy": right / len(labels), "bytes": size, "rows_per_second": len(texts) / best,
    }))


def main(base, train, test):
    texts, labels = read(train)
    test_texts, test_labels = read(test)

    tfidf = make_pipeline(TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(max_iter=1000, C=10))
    tfidf.fit(texts, labels)
    report("TF-IDF (words and pairs), logistic regression", len(pickle.dumps(tfidf)), tfidf.predict, test_texts, test_labels)

    model = distill(model_name=base, pca_dims=256)
    head = LogisticRegression(max_iter=1000).fit(model.encode(texts), labels)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) + len(pickle.dumps(head))
    predict = lambda texts: head.predict(model.encode(texts))
    report("Model2Vec (256 numbers a token), logistic regression", size, predict, test_texts, test_labels)


if __name__ == "__main__":
    main(*sys.argv[1:])
