//! The source `etcd` against real etcd.
//!
//! | module | has |
//! |---|---|
//! | [`listener`] | the source, and what it has told so far |
//! | [`proxy`] | a way to etcd that can be cut |
//! | [`pki`] | certificates, good and bad |
//! | `borrowed`, `objects`, `size`, `trouble`, `tls`, `auth`, `garbage` | the cases |

mod auth;
mod borrowed;
mod garbage;
mod listener;
mod objects;
mod pki;
mod proxy;
mod size;
mod tls;
mod trouble;
