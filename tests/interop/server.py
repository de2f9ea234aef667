"""Whether those who call text-embeddings-inference get the answers of nimbert from `nimbert serve`.

    python server.py URL ANSWERS.jsonl TEXTS.txt

URL is that of a running `nimbert serve`; ANSWERS are those of `nimbert classify --json`, with the same bundle and
variant, for each line of TEXTS. If the server asks for a key, NIMBERT_API_KEY holds it. HF_HUB_OFFLINE must not be set:
huggingface_hub would call nobody, local servers included. Any disagreement is an error.
"""

import json
import math
import os
import re
import sys
import urllib.error
import urllib.request

from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

ASKED = 100
TOLERANCE = 1e-4
# By how much the scores of a text's beginning and of its end must differ for us to see which one was read.
APART = 1e-2
# As text-embeddings-inference answers up to 1.8; from 1.9 on it is 422.
TOO_LONG = 413
KEY = os.environ.get("NIMBERT_API_KEY")


def request(url, body=None, authorization=KEY and f"Bearer {KEY}"):
    """Status and JSON of an answer: a GET without a body, else a POST."""
    headers = {"Content-Type": "application/json"}
    if authorization:
        headers["Authorization"] = authorization
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers)) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        text = error.read().decode()
        try:
            return error.code, json.loads(text)
        except ValueError:
            raise AssertionError((url, error.code, text)) from error


def predict(url, inputs, **options):
    """The score of each label."""
    status, answer = request(f"{url}/predict", {"inputs": inputs, **options})
    assert status == 200, (status, answer)
    return {entry["label"]: entry["score"] for entry in answer}


def refused(url, body):
    """Status and message of an error in text-embeddings-inference's form."""
    status, answer = request(f"{url}/predict", body)
    assert status >= 400 and all(isinstance(answer[key], str) for key in ("error", "error_type")), (status, answer)
    return status, answer["error"]


def distance(scores, others):
    assert scores.keys() == others.keys(), (scores, others)
    return max(abs(score - others[label]) for label, score in scores.items())


def by_client(client, text, **options):
    """The scores that huggingface_hub's client reads, the most likely label first."""
    elements = client.text_classification(text, **options)
    # Of a list that is not in a list, the client takes the first label only.
    assert isinstance(elements, list), elements
    assert all(a.score >= b.score for a, b in zip(elements, elements[1:])), elements
    return {element.label: element.score for element in elements}


def check_client(client, texts, answers):
    largest = 0.0
    for text, answer in zip(texts, answers):
        scores = by_client(client, text)
        assert next(iter(scores)) == answer["label"], (text, scores, answer)
        assert abs(scores[answer["label"]] - answer["score"]) <= TOLERANCE, (text, scores, answer)
        largest = max(largest, distance(scores, answer["scores"]))
    assert largest <= TOLERANCE, largest
    print(f"huggingface_hub: {len(texts)} texts, scores within {largest:.1e}")


def check_top_k(client, text):
    scores = list(by_client(client, text).items())
    for k in range(1, len(scores) + 2):
        assert list(by_client(client, text, top_k=k).items()) == scores[:k], (k, scores)
    print(f"huggingface_hub: top_k from 1 to {len(scores) + 1}")


def applied(client, text, function):
    """The client's scores, or none where the server refuses the function."""
    try:
        return by_client(client, text, function_to_apply=function)
    except HfHubHTTPError as error:
        assert error.response.status_code == 422, error
        return None


def check_functions(url, client, texts):
    """Logits, and what the model makes of them: a softmax sums to 1, a sigmoid of each need not."""
    answers = [predict(url, text) for text in texts]
    is_softmax = all(math.isclose(sum(scores.values()), 1, abs_tol=1e-3) for scores in answers)
    own, other = ("softmax", "sigmoid") if is_softmax else ("sigmoid", "softmax")
    for text, scores in zip(texts, answers):
        logits = predict(url, text, raw_scores=True)
        assert sorted(logits, key=logits.get) == sorted(scores, key=scores.get), (logits, scores)
        assert distance(by_client(client, text, function_to_apply="none"), logits) <= TOLERANCE, (text, logits)
        assert distance(by_client(client, text, function_to_apply=own), scores) <= TOLERANCE, (text, scores)
        assert applied(client, text, other) is None, (text, other)
    print(f"huggingface_hub: function_to_apply none and {own}; {other} is refused")


def check_root(url, texts):
    """POST / is POST /predict."""
    first, second = texts[:2]
    bodies = [
        {"inputs": first},
        {"inputs": [first, second]},
        {"inputs": [[first], [second]]},
        {"inputs": first, "raw_scores": True},
        {"inputs": first, "truncate": True, "truncation_direction": "left"},
        {"inputs": first, "parameters": {"top_k": 1}},
        {"inputs": 5},
    ]
    for body in bodies:
        answer, root = (request(f"{url}{path}", body) for path in ("/predict", "/"))
        assert answer == root, (body, answer, root)
    print(f"POST / and /predict: {len(bodies)} requests")


def repeated(text, limit):
    """At least `limit` tokens: as many words."""
    return " ".join([text] * -(-limit // len(text.split())))


def check_truncation(url, texts, answers):
    limit = request(f"{url}/info")[1]["max_input_length"]
    # What begins like one label's clearest text and ends like another's.
    clearest = {}
    for text, answer in sorted(zip(texts, answers), key=lambda pair: pair[1]["score"]):
        clearest[answer["label"]] = text
    assert len(clearest) > 1, "all texts have one label"
    beginning, end = (repeated(text, limit) for text in list(clearest.values())[-2:])
    long = f"{beginning} {end}"

    status, message = refused(url, {"inputs": long, "truncate": False})
    numbers = [int(number) for number in re.findall(r"\d+", message)]
    assert status == TOO_LONG and limit in numbers and max(numbers) > limit, (status, message)
    for text in texts[:2]:
        assert distance(predict(url, text, truncate=False), predict(url, text)) <= TOLERANCE, text

    right, left = (predict(url, long, truncate=True, truncation_direction=side) for side in ("Right", "Left"))
    assert distance(left, right) > APART, (left, right)
    assert distance(right, predict(url, long)) <= TOLERANCE, "the end is cut unless told otherwise"
    assert distance(right, predict(url, beginning, truncation_direction="right")) <= TOLERANCE, right
    assert distance(left, predict(url, end, truncation_direction="left")) <= TOLERANCE, left
    print(f"truncation: {limit} tokens are kept, of either end; else {status}: {message}")


def check_refusals(url, text):
    bodies = [
        {},
        {"inputs": 5},
        {"inputs": [5]},
        {"inputs": None},
        {"inputs": [[text, text, text]]},
        {"inputs": text, "truncate": "yes"},
        {"inputs": text, "truncation_direction": "up"},
        {"inputs": text, "parameters": {"top_k": "two"}},
        {"inputs": text, "parameters": {"function_to_apply": "tanh"}},
    ]
    for body in bodies:
        status, message = refused(url, body)
        assert status == 422, (body, status, message)
    print(f"wrong requests: {len(bodies)} are refused with 422")


def check_authorization(url, text):
    """The scheme's case means nothing; without a key, nor does the header."""
    body = {"inputs": text}
    expected = request(f"{url}/predict", body)
    for scheme in ("Bearer", "bearer", "BEARER"):
        answer = request(f"{url}/predict", body, f"{scheme} {KEY or 'any'}")
        assert answer == expected, (scheme, answer)
    if KEY:
        assert request(f"{url}/predict", body, f"Bearer {KEY}x")[0] == 401
    print("Authorization: Bearer, bearer, BEARER")


def main():
    url, answers, texts = sys.argv[1:]
    url = url.rstrip("/")
    texts = open(texts, encoding="utf-8").read().splitlines()
    answers = [json.loads(line) for line in open(answers, encoding="utf-8")]
    assert len(texts) == len(answers) >= ASKED, (len(texts), len(answers))
    texts, answers = texts[:ASKED], answers[:ASKED]
    client = InferenceClient(base_url=url, token=KEY)
    check_client(client, texts, answers)
    check_top_k(client, texts[0])
    check_functions(url, client, texts[:10])
    check_root(url, texts)
    check_truncation(url, texts, answers)
    check_refusals(url, texts[0])
    check_authorization(url, texts[0])


if __name__ == "__main__":
    main()
