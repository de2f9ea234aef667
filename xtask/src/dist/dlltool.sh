#!/bin/sh
# dlltool, as rustc calls it. What it writes has symbols that are named after its output's path, which rustc has in a folder
# with a random name. Here the name comes from what is written, so that it is the same each time and no other's.
set -eu
previous=
for argument; do
    case $previous in
        -d) input=$argument ;;
        -l) output=$argument ;;
    esac
    previous=$argument
done
digest=$(sha256sum <"$input" | cut -c1-16)
name=$(basename "$input" .def)-$digest.lib
# The last of two options is the one that counts.
x86_64-w64-mingw32-dlltool "$@" -l "$name"
mv "$name" "$output"
