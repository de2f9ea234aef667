"""Whether transformers reads the tokenizers that nimbert-train wrote as nimbert does, whatever their form.

    python ids.py make FOLDER TEXTS.txt
    python ids.py compare FOLDER

make writes tiny random classifiers, FOLDER/NAME: one for each form of tokenizer, made from the lines of TEXTS. Of each,
nimbert-train then makes a bundle, FOLDER/NAME.bundle, and a Hugging Face folder, FOLDER/NAME.model. compare opens both
with AutoTokenizer. Any id other than that of the tokenizers library, which nimbert uses, is an error; and so is any logit
of the bundle, read by optimum, other than that of the classifier.
"""

import json
import math
import random
import sys
from collections import Counter

import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

WORDS = 2000
BERT_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ROBERTA_TOKENS = ["<s>", "<pad>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True, special=True)]


def words_of(tokenizer, texts):
    """The most frequent words: the library's own trainers number WordPiece and Unigram tokens at random."""
    split = tokenizer.pre_tokenizer.pre_tokenize_str
    words = Counter(word for text in texts for word, _ in split(tokenizer.normalizer.normalize_str(text)))
    return [word for word, _ in words.most_common(WORDS)]


def bert_template(tokenizer):
    return processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )


def word_piece(texts, **normalizer):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(**normalizer)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    words = words_of(tokenizer, texts)
    characters = sorted(set("".join(words)) | set("éÉçñ中文字"))
    tokens = BERT_TOKENS + characters + [f"##{character}" for character in characters] + words
    tokenizer.model = models.WordPiece({token: id for id, token in enumerate(dict.fromkeys(tokens))}, unk_token="[UNK]")
    tokenizer.add_special_tokens(BERT_TOKENS)
    tokenizer.post_processor = bert_template(tokenizer)
    return tokenizer


def byte_level(texts, special_tokens, add_prefix_space):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=WORDS,
        special_tokens=special_tokens,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def roberta_byte_level(texts, add_prefix_space):
    tokenizer = byte_level(texts, ROBERTA_TOKENS, add_prefix_space)
    # By position: the parameters' names differ between releases.
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=add_prefix_space)
    return tokenizer


def bert_byte_level(texts):
    tokenizer = byte_level(texts, BERT_TOKENS, add_prefix_space=True)
    tokenizer.post_processor = bert_template(tokenizer)
    return tokenizer


def unigram(texts):
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    words = words_of(tokenizer, texts)
    pieces = dict.fromkeys([*map(str, ROBERTA_TOKENS), *words, *sorted(set("".join(words)))])
    scores = [(piece, -math.log(1 + rank)) for rank, piece in enumerate(pieces)]
    tokenizer.model = models.Unigram(scores, unk_id=3)
    tokenizer.add_special_tokens(ROBERTA_TOKENS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return tokenizer


def bert_unigram(texts):
    tokenizer = unigram(texts)
    tokenizer.add_special_tokens(BERT_TOKENS)
    tokenizer.post_processor = bert_template(tokenizer)
    return tokenizer


def mpnet_word_piece(texts):
    tokenizer = word_piece(texts)
    tokenizer.add_special_tokens(["<s>", "</s>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")],
    )
    return tokenizer


# What a family's configuration needs besides, to be what it is.
SETTINGS = {
    "modernbert": {"local_attention": 16, "cls_token_id": 2, "sep_token_id": 3, "reference_compile": False},
    "deberta-v2": {
        "relative_attention": True,
        "position_buckets": 8,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        "type_vocab_size": 0,
    },
    "albert": {"embedding_size": 16},
}

# The model's type and its tokenizer.
FORMS = {
    "bert-uncased": ("bert", word_piece),
    "bert-cased": ("bert", lambda texts: word_piece(texts, lowercase=False)),
    "bert-accents": ("bert", lambda texts: word_piece(texts, strip_accents=False)),
    "bert-whole-cjk": ("bert", lambda texts: word_piece(texts, handle_chinese_chars=False)),
    "bert-bpe": ("bert", bert_byte_level),
    "roberta-bpe": ("roberta", lambda texts: roberta_byte_level(texts, add_prefix_space=False)),
    "roberta-bpe-prefix-space": ("roberta", lambda texts: roberta_byte_level(texts, add_prefix_space=True)),
    "roberta-word-piece": ("roberta", lambda texts: word_piece(texts, lowercase=False)),
    "xlm-roberta-unigram": ("xlm-roberta", unigram),
    "modernbert-bpe": ("modernbert", bert_byte_level),
    "deberta-unigram": ("deberta-v2", bert_unigram),
    "albert-unigram": ("albert", bert_unigram),
    "mpnet-word-piece": ("mpnet", mpnet_word_piece),
}


def make(folder, texts):
    import torch

    texts = open(texts, encoding="utf-8", errors="replace").read().splitlines()
    for name, (model_type, form) in FORMS.items():
        tokenizer = form(texts)
        pad_token = "[PAD]" if tokenizer.token_to_id("[PAD]") is not None else "<pad>"
        config = transformers.AutoConfig.for_model(
            model_type,
            vocab_size=tokenizer.get_vocab_size(),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=130 if model_type == "bert" else 132,
            pad_token_id=tokenizer.token_to_id(pad_token),
            # Large, so that logits of different texts are far apart.
            initializer_range=0.3,
            id2label={0: "negative", 1: "positive"},
            label2id={"negative": 0, "positive": 1},
            **SETTINGS.get(model_type, {}),
        )
        torch.manual_seed(0)
        model = transformers.AutoModelForSequenceClassification.from_config(config)
        model.save_pretrained(f"{folder}/{name}")
        tokenizer.save(f"{folder}/{name}/tokenizer.json")
        print(f"{folder}/{name}: {model_type}, {type(tokenizer.model).__name__}, {config.vocab_size} tokens")


def odd_texts(count):
    """Texts in which tokenizers differ, then mixtures of them."""
    odd = [
        *("", " ", "   leading and trailing   ", "\t", "tab\there", "line\nbreak\r\nand more\n", "a  b   c"),
        *("A Good Film", "SHOUTING", "İstanbul ISPARTA ıssız", "Straße STRASSE", "ΟΔΥΣΣΕΥΣ", "Éclair, façade, Ñandú"),
        *("e\u0301clair fac\u0327ade n\u0303andu\u0301", "\u0301alone", "Åse A\u030ase"),
        *("ﬁlm ﬂow", "ｆｕｌｌ　ｗｉｄｔｈ", "½ ² ™", "zero\u200bwidth\u200djoiner", "\ufeffmark", "soft\u00adhyphen"),
        *("电影很好看", "good电影bad", "映画はとても良かった", "영화가 좋았다", "𠀀𠀁", "हिन्दी", "ไทย", "שָׁלוֹם", "العَرَبِيَّة"),
        *("🙂", "great👍🏽", "👩\u200d👩\u200d👧 family", "❤\ufe0f", "🇳🇱", "\ue000"),
        *("no\u00a0break", "thin\u2009space", "\u2028", "nul\0in", "bell\x07", "\x1b[31mred", "\x7f", "\ufffd"),
        *("word" * 20, "x" * 99, "x" * 100, "x" * 101, "Aé" * 300, "1234567890" * 5, "3.14 1,000.50 $9 50%"),
        *("don't can't it's I'M", "...!!!???", "a-b_c/d\\e", "“quoted” ‘so’ «là»", "—"),
        *("`~@#$%^&*()[]{}<>|", "http://a.b/?c=d&e", "##ing", "good ##ing", "the " * 400),
        *("[SEP]", "a [SEP] b", "a[CLS]b", "[MASK] it", " [MASK] ", "[PAD][PAD]", "[UNK]", "[sep] [cls]", "[ SEP ]"),
        *("</s>", "a </s> b", "<s>a</s>", "a <mask> b", "a<mask>b", "<pad>", "<unk>", "<S>", "▁good ▁", "Ġgood Ġ"),
    ]
    mix = random.Random(0)
    while len(odd) < count:
        parts = mix.sample(odd, mix.randint(2, 4))
        odd.append(mix.choice(["", " ", ", ", "\n"]).join(part[:40] for part in parts))
    return odd


def compare_folder(folder, texts):
    config = json.load(open(f"{folder}/config.json", encoding="utf-8"))
    expected = Tokenizer.from_file(f"{folder}/tokenizer.json")
    expected.no_truncation()
    expected.no_padding()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    # Lists only: to transformers a single pair with an empty second text is no pair.
    pairs = list(zip(texts, reversed(texts)))
    # As they are, then cut and padded as in a pipeline.
    for options in ({}, {"truncation": True, "padding": True}):
        if options:
            expected.enable_truncation(tokenizer.model_max_length)
            expected.enable_padding(pad_id=config["pad_token_id"])
        for rows, columns in ((texts, [texts]), (pairs, zip(*pairs))):
            given = tokenizer(*map(list, columns), **options)
            assert "token_type_ids" in given or config["model_type"] != "bert", (folder, list(given))
            for index, (row, wanted) in enumerate(zip(rows, expected.encode_batch(rows))):
                for name, values in (
                    ("input_ids", wanted.ids),
                    ("token_type_ids", wanted.type_ids),
                    ("attention_mask", wanted.attention_mask),
                ):
                    if name in given:
                        assert given[name][index] == values, (folder, name, row, values, given[name][index])
    print(f"transformers {transformers.__version__}: {folder}, the ids of {len(texts)} texts and {len(pairs)} pairs")


def compare_logits(model, bundle, texts):
    """transformers' model and its export by nimbert-train, read by optimum, on the same ids."""
    import torch
    from optimum.onnxruntime import ORTModelForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(bundle)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(model).eval()
    ours = ORTModelForSequenceClassification.from_pretrained(bundle)
    largest, all_logits = 0.0, []
    for first in range(0, len(texts), 20):
        given = tokenizer(texts[first : first + 20], truncation=True, padding=True, return_tensors="pt")
        with torch.no_grad():
            expected = theirs(**given).logits
            largest = max(largest, (expected - ours(**given).logits).abs().max().item())
            all_logits.append(expected)
    spread = torch.cat(all_logits).std(dim=0).min().item()
    assert largest < 1e-4 and spread > 0.01, (bundle, largest, spread)
    print(f"optimum: {bundle}, logits within {largest:.1e} of {type(theirs).__name__}'s, which differ by {spread:.2f}")


def compare(folder):
    texts = odd_texts(300)
    if transformers.__version__.startswith("4."):
        for name in FORMS:
            compare_logits(f"{folder}/{name}", f"{folder}/{name}.bundle", texts)
    for name in FORMS:
        for kind in ("bundle", "model"):
            compare_folder(f"{folder}/{name}.{kind}", texts)


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    command, *arguments = sys.argv[1:]
    {"make": make, "compare": compare}[command](*arguments)
