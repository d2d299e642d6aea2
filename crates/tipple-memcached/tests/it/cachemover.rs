//! The cachemover layout, byte for byte, and what is wrong with damaged ones.
