//! The blocks of the paged KV cache, as numbers: which are free, which are held. Memory itself is the model's affair.
