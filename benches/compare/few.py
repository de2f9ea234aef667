"""Few labelled rows, as others learn from them: SetFit, and logistic regression on sentence-transformers' features.

few.py setfit|setfit-bf16|frozen BASE TRAIN.csv TEST.csv MAX_LENGTH: one JSON object with the accuracy on the test rows and the
seconds that learning took, without loading and testing. With bf16 the encoder's products are in that (torch.autocast).

SetFit compares all pairs of rows, which are too many to wait for where rows are not few: of more than FEW_ROWS it is given 20 pairs a
row of either kind, as its paper has it, and at most 640 batches, which are 20,480 texts.
"""

import csv
import json
import sys
import tempfile
import time

import torch
from sentence_transformers import SentenceTransformer, models
from sklearn.linear_model import LogisticRegression


FEW_ROWS = 60
MOST_BATCHES = 640


def read(path):
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in rows], [row["label"] for row in rows]


def body(base, max_length):
    """What all-MiniLM-L6-v2's own folder asks for: the mean of the tokens, divided by its length."""
    encoder = models.Transformer(base, max_seq_length=max_length)
    pooling = models.Pooling(encoder.get_word_embedding_dimension(), pooling_mode="mean")
    return SentenceTransformer(modules=[encoder, pooling, models.Normalize()], device="cpu")


def frozen(encoder, texts, labels):
    head = LogisticRegression(max_iter=1000).fit(encoder.encode(texts, show_progress_bar=False), labels)
    return lambda texts: head.predict(encoder.encode(texts, show_progress_bar=False))


def setfit(encoder, texts, labels):
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    model = SetFitModel(model_body=encoder, model_head=LogisticRegression(max_iter=1000))
    rows = Dataset.from_dict({"text": texts, "label": labels})
    limits = {"num_iterations": 20, "max_steps": min(MOST_BATCHES, len(texts) * 40 // 16)} if len(texts) > FEW_ROWS else {}
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            save_strategy="no",
            batch_size=16,
            num_epochs=1,
            show_progress_bar=False,
            report_to="none",
            **limits,
        )
        Trainer(model=model, args=arguments, train_dataset=rows).train()
    return lambda texts: model.predict(texts, as_numpy=True, show_progress_bar=False)


def main(method, base, train, test, max_length):
    texts, labels = read(train)
    encoder = body(base, int(max_length))
    method, _, bf16 = method.partition("-")
    if bf16:
        encoder.forward = torch.autocast("cpu", torch.bfloat16)(encoder.forward)
    began = time.perf_counter()
    predict = {"frozen": frozen, "setfit": setfit}[method](encoder, texts, labels)
    seconds = time.perf_counter() - began
    texts, labels = read(test)
    right = sum(answer == label for answer, label in zip(predict(texts), labels))
    print(json.dumps({"accuracy": right / len(labels), "seconds": seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])
