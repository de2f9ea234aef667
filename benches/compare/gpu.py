"""A BERT classifier by transformers on a GPU, in fp16: rows a second, and the time of single texts.

    python gpu.py CONFIG_JSON TOKENIZER_JSON TEXTS [--device cuda]

The weights are random: speed does not depend on them. TEXTS has one text a line. Texts are sorted by length and tokenized
in batches of 32, 128 and 256, which is part of the time, as for `nimbert bench`.
"""

import argparse
import statistics
import time

import torch
import transformers
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

parser = argparse.ArgumentParser()
for name in ("config", "tokenizer", "texts"):
    parser.add_argument(name)
parser.add_argument("--device", default="cuda")
args = parser.parse_args()

config = BertConfig.from_json_file(args.config)
config.num_labels = 2
model = BertForSequenceClassification(config).half().to(args.device).eval()
tokenizer = PreTrainedTokenizerFast(tokenizer_file=args.tokenizer, pad_token="[PAD]")
texts = open(args.texts, encoding="utf-8").read().split("\n")[:-1]


@torch.no_grad()
def classify(texts, batch_size):
    for start in range(0, len(texts), batch_size):
        batch = tokenizer(
            texts[start : start + batch_size], padding=True, truncation=True, max_length=128, return_tensors="pt"
        )
        model(**batch.to(args.device)).logits.float().softmax(-1).cpu()


print(f"torch {torch.__version__}, transformers {transformers.__version__}")
in_order = sorted(texts, key=len)
for batch_size in (32, 128, 256):
    classify(in_order, batch_size)
    rates = []
    for _ in range(3):
        started = time.perf_counter()
        classify(in_order, batch_size)
        rates.append(len(texts) / (time.perf_counter() - started))
    print(f"batches of {batch_size}: {statistics.median(rates):.0f} rows/s")

classify(in_order[:100], 1)
times = []
for text in texts[:500]:
    started = time.perf_counter()
    classify([text], 1)
    times.append(1e3 * (time.perf_counter() - started))
times.sort()
print(f"one text: p50 {times[len(times) // 2]:.2f} ms, p99 {times[len(times) * 99 // 100]:.2f} ms")
