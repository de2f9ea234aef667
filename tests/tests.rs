//! Integration tests over the public interfaces, in the order of the data's way through the program.

mod attack;
mod bad_input;
mod certainty;
mod classify;
mod drift;
mod end_to_end;
mod explain;
mod export;
mod families;
mod features;
mod graph;
mod hub;
mod kills;
mod methods;
mod odd_texts;
mod one_file;
mod real_files;
mod reference;
mod resume;
mod runtime;
mod suggest;
mod tasks;
mod trust;
mod tune;
mod vectors;
