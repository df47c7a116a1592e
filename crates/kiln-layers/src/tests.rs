//! Whole layers, right and wrong, through the public door.

mod awkward;
mod damage;
mod hostile;
mod peers;
mod streams;
