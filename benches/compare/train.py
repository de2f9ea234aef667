"""Trains a text classifier with transformers the way `nimbert-train fit` does, for comparison.

    python train.py BASE TRAIN.csv TEST.csv --seed N [--epochs 5] [--batch-size 32] [--learning-rate 1e-4]
        [--max-length 128] [--pair-column NAME] [--multi-label SEP] [--bf16] [--sgemm]

BASE is a Hugging Face folder (config.json, tokenizer.json, model.safetensors); the files have the columns text and
label; TEST.csv may be `-`: no test.

Held equal: base weights and tokenizer.json, rows, max length, batch size, epochs; dropout as config.json says; batches
in shuffled order; AdamW with weight decay 0.01, but none for biases and LayerNorm; clipping to a norm of 1; linear
warm-up over a tenth of the steps, then linear decay; f32, or with --bf16 products in that (torch.autocast); a
thread a core; tokenizing is done before the clock starts.
Not equal: the random numbers; nimbert does not pad, here each batch is padded to its longest text; and where there are
three labels or more the head of nimbert's model begins as a regression, which is not in its rows a second. AdamW is
torch's fused one, which transformers' Trainer takes by default.

Prints one JSON object:
  accuracy, macro_f1, micro_f1  on the test rows, after the last epoch (accuracy of several labels: all of them right)
  epochs              loss, rows_per_second, tokens_per_second of each; padding is not counted as tokens
  peak_memory_mb      the most the process has held at the end of training, before the test, in millions of bytes
  sgemm_gflops        with --sgemm: the fastest f32 matrix product that torch makes here
"""
import argparse, csv, json, math, os, random, resource, sys, time

import torch
from transformers import (AutoConfig, AutoModelForSequenceClassification, DataCollatorWithPadding,
                          PreTrainedTokenizerFast, get_linear_schedule_with_warmup)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("train")
    parser.add_argument("test")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--pair-column", metavar="NAME", help="a second text")
    parser.add_argument("--multi-label", metavar="SEP", help="what separates the labels of a row; it may have none")
    parser.add_argument("--bf16", action="store_true", help="torch.autocast to bfloat16, weights and moments in f32")
    parser.add_argument("--sgemm", action="store_true", help="measure f32 matrix products too")
    return parser.parse_args()


def read(path, args):
    """Texts (lists of one or two columns) and, for each row, its labels."""
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    columns = ["text"] + ([args.pair_column] if args.pair_column else [])
    texts = [[row[column] for row in rows] for column in columns]
    if args.multi_label is None:
        return texts, [[row["label"]] for row in rows]
    return texts, [[label for part in row["label"].split(args.multi_label) if (label := part.strip())] for row in rows]


def indicators(labels, names):
    """`[rows, labels]`: 1 where the row has the label."""
    ids = {name: i for i, name in enumerate(names)}
    matrix = torch.zeros(len(labels), len(names))
    for row, own in enumerate(labels):
        matrix[row, [ids[label] for label in own]] = 1.0
    return matrix


def load(args, names):
    problem = "single_label_classification" if args.multi_label is None else "multi_label_classification"
    config = AutoConfig.from_pretrained(args.base, num_labels=len(names), problem_type=problem)
    return AutoModelForSequenceClassification.from_pretrained(args.base, config=config, dtype=torch.float32,
                                                              ignore_mismatched_sizes=True)


def encoder(args, config):
    """The tokenizer as it stands in tokenizer.json, whichever names its special tokens have, and a function that
    applies it to texts: a list of inputs, without padding."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=os.path.join(args.base, "tokenizer.json"))
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(config.pad_token_id)
    types = getattr(config, "type_vocab_size", 0) > 1

    def encode(texts):
        inputs = tokenizer(*texts, truncation=True, max_length=args.max_length, return_token_type_ids=types)
        return [dict(zip(inputs, row)) for row in zip(*inputs.values())]

    return tokenizer, encode


def train(model, inputs, labels, collate, args):
    """Trains in place; returns what each epoch brought."""
    shuffle = random.Random(args.seed)
    decayed, plain = [], []
    for name, parameter in model.named_parameters():
        (plain if name.endswith("bias") or "LayerNorm" in name else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.learning_rate, fused=True)
    steps = args.epochs * math.ceil(len(inputs) / args.batch_size)
    schedule = get_linear_schedule_with_warmup(optimizer, math.ceil(steps * 0.1), steps)
    tokens = sum(len(row["input_ids"]) for row in inputs)
    epochs = []
    model.train()
    for _ in range(args.epochs):
        started, loss_sum = time.perf_counter(), 0.0
        order = list(range(len(inputs)))
        shuffle.shuffle(order)
        for start in range(0, len(order), args.batch_size):
            rows = order[start:start + args.batch_size]
            with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
                loss = model(**collate([inputs[row] for row in rows]), labels=labels[rows]).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            loss_sum += loss.item() * len(rows)
        seconds = time.perf_counter() - started
        epochs.append({"loss": loss_sum / len(order), "rows_per_second": len(order) / seconds,
                       "tokens_per_second": tokens / seconds})
    return epochs


@torch.inference_mode()
def test(model, inputs, expected, collate, multi_label):
    """Accuracy and F1 against the indicators `expected`; rows are grouped by length, to save padding."""
    model.eval()
    predicted = torch.zeros_like(expected)
    by_length = sorted(range(len(inputs)), key=lambda row: len(inputs[row]["input_ids"]))
    for start in range(0, len(by_length), 64):
        rows = by_length[start:start + 64]
        logits = model(**collate([inputs[row] for row in rows])).logits
        # A logit of 0 is a probability of 0.5.
        predicted[rows] = (logits >= 0).float() if multi_label else torch.eye(logits.shape[1])[logits.argmax(-1)]
    expected, predicted = expected.double(), predicted.double()
    hits, sizes = (expected * predicted).sum(0), (expected + predicted).sum(0)
    # A label that no row has, and that was given to none, says nothing.
    return {"accuracy": (expected == predicted).all(1).double().mean().item(),
            "macro_f1": (2 * hits / sizes)[sizes > 0].mean().item(),
            "micro_f1": (2 * hits.sum() / sizes.sum().clamp(min=1)).item()}


def memory_mb():
    # In bytes there, in KiB elsewhere.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def sgemm_gflops():
    best = 0.0
    for size in (1024, 1536, 2048):
        a, b, c = (torch.rand(size, size) for _ in range(3))
        deadline = time.perf_counter() + 0.7
        while (started := time.perf_counter()) < deadline:
            torch.mm(a, b, out=c)
            best = max(best, 2e-9 * size**3 / (time.perf_counter() - started))
    return best


def main():
    args = arguments()
    torch.set_num_threads(os.cpu_count())
    torch.manual_seed(args.seed)
    texts, labels = read(args.train, args)
    names = sorted({label for own in labels for label in own})
    model = load(args, names)
    # safetensors maps the file into memory: weights count there only once they are read.
    for parameter in model.parameters():
        parameter.detach().sum()
    result = {"accuracy": None, "macro_f1": None, "micro_f1": None}
    tokenizer, encode = encoder(args, model.config)
    collate = DataCollatorWithPadding(tokenizer)
    targets = indicators(labels, names)
    targets = targets.argmax(1) if args.multi_label is None else targets
    result["epochs"] = train(model, encode(texts), targets, collate, args)
    result["peak_memory_mb"] = memory_mb()
    if args.test != "-":
        texts, labels = read(args.test, args)
        result |= test(model, encode(texts), indicators(labels, names), collate, args.multi_label is not None)
    if args.sgemm:
        result["sgemm_gflops"] = sgemm_gflops()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
