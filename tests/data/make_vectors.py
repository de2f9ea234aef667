"""Writes tests/data/vectors: bundles of format 2, each with one fault, by the rules of runtime/FORMAT.md.

    python3 tests/data/make_vectors.py target/release/nimbert-train

Each is a text: its first line says what a reader does with it, then come the files in which it differs from
tests/data/bundle-2. Signatures are made by the program; nothing else of it is used.
"""

import hashlib
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

DATA = pathlib.Path(__file__).parent
BASE = DATA / "bundle-2"
OUT = DATA / "vectors"
FILES = {path.name: path.read_bytes() for path in BASE.iterdir()}
MANIFEST = json.loads(FILES["nimbert.json"])
CONFIG = json.loads(FILES["config.json"])


def sealed(manifest):
    """The manifest's bytes with its own digest."""
    manifest = dict(manifest, manifest_sha256="0" * 64)
    content = json.dumps(manifest, indent=2) + "\n"
    return content.replace("0" * 64, hashlib.sha256(content.encode()).hexdigest(), 1)


def changed(change):
    """The manifest after a change, with a digest that fits."""
    manifest = json.loads(FILES["nimbert.json"])
    change(manifest)
    return sealed(manifest)


def with_file(name, content):
    """A file, and the manifest that lists it so."""
    entry = {"bytes": len(content.encode()), "sha256": hashlib.sha256(content.encode()).hexdigest()}
    return {name: content, "nimbert.json": changed(lambda manifest: manifest["files"].update({name: entry}))}


def config(**values):
    return with_file("config.json", json.dumps(dict(CONFIG, **values), indent=2))


def write(name, expect, files, key=None):
    parts = [f"expect: {expect}"] + ([f"key: {key}"] if key else [])
    for file, content in files.items():
        parts.append(f"--- {file}\n{content}" if not content.startswith("!") else f"--- {file} {content[1:]}")
    (OUT / f"{name}.txt").write_text("\n".join(parts), newline="\n")


def manifest(name, expect, change):
    write(name, expect, {"nimbert.json": changed(change)})


def deep(path, value):
    def change(manifest):
        *parents, last = path
        for key in parents:
            manifest = manifest[key]
        if value is None:
            del manifest[last]
        else:
            manifest[last] = value

    return change


def signatures(program):
    """Signed, and signed wrongly."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)

        def run(*arguments):
            subprocess.run([program, *arguments], check=True, stdout=subprocess.DEVNULL)

        keys = {}
        for name in ["one", "other"]:
            secret, public = folder / f"{name}.key", folder / f"{name}.pub"
            run("keygen", "--no-password", "--key", secret, "--public-key", public)
            keys[name] = public.read_text().splitlines()[1]
        bundle = folder / "bundle"
        shutil.copytree(BASE, bundle)
        run("sign", bundle, "--key", folder / "one.key")
        signature = (bundle / "nimbert.json.minisig").read_text()
        write("signed", "opens", {"nimbert.json.minisig": signature}, keys["one"])
        write("signed-by-another", "Signature nimbert.json.minisig", {"nimbert.json.minisig": signature}, keys["other"])
        write("signed-not", "Signature nimbert.json.minisig", {}, keys["one"])
        later = {"nimbert.json.minisig": signature, "nimbert.json": changed(deep(["temperature"], 2.0))}
        write("signed-then-changed", "Signature nimbert.json.minisig", later, keys["one"])
        write("signed-then-config-changed", "Checksum config.json", {
            "nimbert.json.minisig": signature,
            "config.json": FILES["config.json"].decode().replace("negative", "positivE", 1),
        }, keys["one"])
        write("signed-with-something-else", "Signature nimbert.json.minisig", {"nimbert.json.minisig": "signed"}, keys["one"])
        write("signed-and-nobody-asks", "opens", {"nimbert.json.minisig": "signed"})


def main():
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir()
    whole = FILES["nimbert.json"].decode()
    digest = MANIFEST["manifest_sha256"]
    write("whole", "opens", {})
    write("other-files", "opens", {".DS_Store": "of a file manager", "notes.txt": "mine"})
    manifest("metadata", "opens", deep(["metadata"], {"ticket": [1, {"any": "thing"}]}))
    # The manifest.
    write("manifest-absent", "Io nimbert.json", {"nimbert.json": "!absent"})
    write("manifest-empty", "Format nimbert.json", {"nimbert.json": ""})
    write("manifest-of-another-kind", "Format nimbert.json", {"nimbert.json": "[1, 2]"})
    write("manifest-cut", "Format nimbert.json", {"nimbert.json": whole[: len(whole) // 2]})
    write("manifest-with-a-space-more", "Checksum nimbert.json", {"nimbert.json": whole + " "})
    write("manifest-with-another-value", "Checksum nimbert.json",
          {"nimbert.json": whole.replace('"temperature": 1.0', '"temperature": 2.0')})
    write("manifest-with-another-digest", "Checksum nimbert.json", {"nimbert.json": whole.replace(digest, "a" * 64)})
    write("manifest-with-a-digest-upper-case", "Format nimbert.json", {"nimbert.json": whole.replace(digest, digest.upper())})
    write("manifest-with-its-digest-twice", "Format nimbert.json",
          {"nimbert.json": whole.replace('"metadata": {}', '"metadata": {"again": "%s"}' % digest)})
    write("manifest-without-digest", "Format nimbert.json",
          {"nimbert.json": json.dumps({key: value for key, value in MANIFEST.items() if key != "manifest_sha256"})})
    write("manifest-that-calls-itself-format-1", "Checksum nimbert.json",
          {"nimbert.json": whole.replace('"format_version": 2', '"format_version": 1')})
    manifest("manifest-of-format-3", "Format nimbert.json", deep(["format_version"], 3))
    manifest("manifest-of-format-0", "Format nimbert.json", deep(["format_version"], 0))
    manifest("manifest-of-no-format", "Format nimbert.json", deep(["format_version"], None))
    write("key-twice", "Format nimbert.json", {"nimbert.json": '{"max_length": 5, ' + whole.lstrip("{ \n")})
    write("key-twice-among-files", "Format nimbert.json",
          {"nimbert.json": whole.replace('"README.md": {', '"config.json": {"bytes": 1, "sha256": ""}, "README.md": {')})
    manifest("key-unknown", "Format nimbert.json", deep(["lowercase"], True))
    manifest("key-unknown-in-a-graph", "Format nimbert.json", deep(["variants", 0, "fallback"], "other.onnx"))
    manifest("key-unknown-in-provenance", "Format nimbert.json", deep(["provenance", "author"], "x"))
    write("manifest-with-a-list-for-a-file", "Format nimbert.json", {"nimbert.json": changed(
        lambda manifest: manifest["files"].update({"config.json": list(manifest["files"]["config.json"].values())}))})
    manifest("manifest-with-an-object-for-a-name", "Format nimbert.json", deep(["variants", 0, "precision"], {"int8": None}))
    write("manifest-with-its-digest-elsewhere", "Format nimbert.json", {"nimbert.json": whole.replace(
        digest, "\\u0030" + digest[1:], 1).replace('"metadata": {}', '"metadata": {"digest": "%s"}' % digest)})
    manifest("temperature-of-0", "Format nimbert.json", deep(["temperature"], 0.0))
    manifest("temperature-beyond-32-bits", "Format nimbert.json", deep(["temperature"], 1e39))
    manifest("folded-temperature-below-0", "Format nimbert.json", deep(["folded_temperature"], -1.0))
    manifest("max-length-of-2", "Format nimbert.json", deep(["max_length"], 2))
    manifest("max-length-beyond-positions", "Format nimbert.json", deep(["max_length"], 100000))
    manifest("stride-of-all", "Tokenizer", deep(["stride"], MANIFEST["max_length"]))
    manifest("stride-of-nearly-all", "Tokenizer", deep(["stride"], MANIFEST["max_length"] - 4))
    manifest("data-of-9-gigabytes", "Format nimbert.json", deep(["files", "model.onnx_data"], {"bytes": 9 << 30, "sha256": "0" * 64}))
    manifest("thresholds-of-one-label", "Format nimbert.json", deep(["label_thresholds"], [0.5]))
    manifest("thresholds-where-a-text-has-one-label", "Format nimbert.json", deep(["label_thresholds"], [0.3, 0.7]))
    manifest("execution-provider-unknown", "Format nimbert.json", deep(["variants", 0, "execution_provider"], "CUDA"))
    manifest("truncation-side-unknown", "Format nimbert.json", deep(["truncation_side"], "middle"))
    manifest("graphs-none", "Format nimbert.json", deep(["variants"], []))
    manifest("graphs-of-one-name", "Format nimbert.json",
             lambda manifest: manifest["variants"].append(manifest["variants"][0]))
    manifest("graph-that-is-not-listed", "Format nimbert.json", deep(["variants", 0, "file"], "other.onnx"))
    # Files.
    for name, path in [("above", "../config.json"), ("below", "a/config.json"), ("absolute", "/etc/passwd"),
                       ("of-windows", "a\\config.json"), ("of-the-manifest", "nimbert.json"), ("of-a-drive", "c:config.json"),
                       ("of-the-signature", "nimbert.json.minisig")]:
        manifest(f"name-{name}", "Format nimbert.json", deep(["files", path], MANIFEST["files"]["config.json"]))
    manifest("digest-upper-case", "Format nimbert.json",
             deep(["files", "config.json", "sha256"], MANIFEST["files"]["config.json"]["sha256"].upper()))
    manifest("digest-of-nothing", "Format nimbert.json", deep(["files", "config.json", "sha256"], ""))
    manifest("size-of-another", "Format model.onnx", deep(["files", "model.onnx", "bytes"], 17))
    manifest("config-not-listed", "Format nimbert.json", deep(["files", "config.json"], None))
    manifest("data-listed-and-absent", "Io model.onnx_data", deep(["files", "model.onnx_data"], {"bytes": 0, "sha256": hashlib.sha256(b"").hexdigest()}))
    write("data-not-listed", "Format nimbert.json", {"model.onnx_data": "tensors"})
    write("file-absent", "Io README.md", {"README.md": "!absent"})
    write("file-that-is-a-pipe", "Format tokenizer.json", {"tokenizer.json": "!pipe"})
    write("file-that-is-a-folder", "Format tokenizer.json", {"tokenizer.json": "!folder"})
    write("config-changed", "Checksum config.json",
          {"config.json": FILES["config.json"].decode().replace("negative", "positivE", 1)})
    write("tokenizer-changed", "Checksum tokenizer.json", {"tokenizer.json": "!flip 300"})
    write("graph-changed", "Checksum model.onnx", {"model.onnx": "!flip 40000"})
    # The configuration.
    write("config-of-one-label", "Format nimbert.json", config(id2label={"0": "only"}))
    write("config-of-labels-alike", "Format config.json", config(id2label={"0": "same", "1": "same"}))
    write("config-of-ids-with-a-gap", "Format config.json", config(id2label={"0": "one", "2": "two"}))
    write("config-of-a-huge-size", "Format config.json", config(hidden_size=2**60))
    write("config-with-a-key-twice", "Format config.json",
          with_file("config.json", '{"pad_token_id": 1, ' + FILES["config.json"].decode().lstrip("{ \n")))
    write("config-with-unknown-keys", "opens", config(another="thing"))
    # The tokenizer.
    tokenizer = json.loads(FILES["tokenizer.json"])
    tokenizer["model"]["max_input_chars_per_word"] = 10**9
    write("tokenizer-of-endless-words", "Format tokenizer.json", with_file("tokenizer.json", json.dumps(tokenizer)))
    signatures(sys.argv[1])


main()
