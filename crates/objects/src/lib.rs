//! Object stores: opening by URL, create-if-absent, retries, a cache on local disk.
