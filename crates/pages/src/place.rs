//! Where layers and manifests live.
//!
//! A [`Place`] has folders, one for each branch; [`Files`] is one of them.
//! They are what the page store needs of a directory, so that an object store
//! can take its part: no name is used twice, nothing changes once it is
//! finished, and one call creates only if absent. [`LocalPlace`] is a directory,
//! [`ObjectPlace`] an object store behind a cache on local disk, and
//! [`ReadOnlyPlace`] a directory that another process may have open.

mod files;
mod local;
mod object;
mod read_only;

pub(crate) use files::branch_folder;
pub use files::{FileReader, FileWriter, Files, Place, Put};
pub use local::{Hook, LocalFiles, LocalPlace, Step};
pub use object::{ObjectFiles, ObjectPlace};
pub use read_only::ReadOnlyPlace;
