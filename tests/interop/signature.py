"""Another implementation of minisign reads our signature, and we read its.

    python3 tests/interop/signature.py BUNDLE PUBLIC_KEY NIMBERT
"""

import pathlib
import subprocess
import sys

import minisign


def main():
    bundle, key, nimbert = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    manifest, path = (bundle / "nimbert.json").read_bytes(), bundle / "nimbert.json.minisig"
    ours = path.read_bytes()
    public = minisign.PublicKey.from_file(key)
    public.verify(manifest, minisign.Signature.from_file(path))
    try:
        public.verify(manifest + b" ", minisign.Signature.from_file(path))
    except minisign.VerifyError:
        pass
    else:
        sys.exit("a manifest that was changed is signed")
    pair = minisign.KeyPair.generate()
    theirs = pathlib.Path(key).with_name("theirs.pub")
    theirs.write_bytes(bytes(pair.public_key))
    try:
        path.write_bytes(bytes(pair.secret_key.sign(manifest)))
        for keys, status in [([theirs], 0), ([key, theirs], 0), ([key], 2)]:
            arguments = [argument for key in keys for argument in ("--public-key", key)]
            done = subprocess.run([nimbert, "verify", bundle, *arguments], capture_output=True)
            assert done.returncode == status, (keys, done)
    finally:
        path.write_bytes(ours)
    print("signatures: ours by py-minisign, theirs by nimbert verify: as they should be")


main()
