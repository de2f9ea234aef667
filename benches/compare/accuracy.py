"""Trains a text classifier with transformers the way `nimbert-train fit` does, for comparison.

    python accuracy.py BASE TRAIN.csv TEST.csv SEED

AdamW with two groups, clipping to 1, linear warm-up over a tenth of the steps and linear decay, dynamic padding,
batches of 32, five epochs, learning rate 1e-4, texts cut at 128 tokens; a thread a core, as nimbert has. Prints one JSON object: accuracy on the test rows, loss and rows per second of each epoch.
"""
import csv, json, math, os, random, resource, sys, time

import torch
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedTokenizerFast, get_linear_schedule_with_warmup

EPOCHS, BATCH_SIZE, LEARNING_RATE, MAX_LENGTH = 5, 32, 1e-4, 128


def read(path):
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in rows], [row["label"] for row in rows]


def main(base, train_path, test_path, seed):
    torch.manual_seed(seed)
    shuffle = random.Random(seed)
    texts, names = read(train_path)
    test_texts, test_names = read(test_path)
    label_id = {name: i for i, name in enumerate(sorted(set(names)))}
    labels = torch.tensor([label_id[name] for name in names])
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=f"{base}/tokenizer.json", pad_token="[PAD]", unk_token="[UNK]",
                                        cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]")
    config = AutoConfig.from_pretrained(base, num_labels=len(label_id))
    model = AutoModelForSequenceClassification.from_pretrained(base, config=config)

    def encode(batch):
        return tokenizer(batch, padding=True, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")

    no_decay = [p for n, p in model.named_parameters() if n.endswith("bias") or "LayerNorm" in n]
    ids = {id(p) for p in no_decay}
    optimizer = torch.optim.AdamW([{"params": [p for p in model.parameters() if id(p) not in ids], "weight_decay": 0.01},
                                   {"params": no_decay, "weight_decay": 0.0}], lr=LEARNING_RATE)
    steps = EPOCHS * math.ceil(len(texts) / BATCH_SIZE)
    schedule = get_linear_schedule_with_warmup(optimizer, math.ceil(steps * 0.1), steps)
    epochs = []
    for _ in range(EPOCHS):
        model.train()
        order = list(range(len(texts)))
        shuffle.shuffle(order)
        started, loss_sum = time.perf_counter(), 0.0
        for start in range(0, len(order), BATCH_SIZE):
            rows = order[start:start + BATCH_SIZE]
            loss = model(**encode([texts[row] for row in rows]), labels=labels[rows]).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            loss_sum += loss.item() * len(rows)
        seconds = time.perf_counter() - started
        epochs.append({"loss": loss_sum / len(order), "rows_per_second": len(order) / seconds})
    model.eval()
    hits = 0
    by_length = sorted(range(len(test_texts)), key=lambda row: len(test_texts[row]))
    with torch.no_grad():
        for start in range(0, len(by_length), 64):
            rows = by_length[start:start + 64]
            predicted = model(**encode([test_texts[row] for row in rows])).logits.argmax(-1).tolist()
            hits += sum(label_id[test_names[row]] == label for row, label in zip(rows, predicted))
    print(json.dumps({"accuracy": hits / len(test_texts), "epochs": epochs,
                      "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))


if __name__ == "__main__":
    torch.set_num_threads(os.cpu_count())
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
