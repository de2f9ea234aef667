//! Integration tests over the public interfaces, in the order of the data's way through the program.

mod reference;
