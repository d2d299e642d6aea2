//! Dumps: layout, part records, the pipeline, and the verbs as functions
