//! The socket of the control API.

use std::{
    fs::{self, Permissions},
    io::{self, ErrorKind},
    os::unix::{fs::FileTypeExt, fs::PermissionsExt, net::UnixStream as StdStream},
    path::{Path, PathBuf},
};

use tokio::net::UnixListener;

/// The socket cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Somebody answers there.
    #[error("{path}: another agent answers there; stop it first, or give this one another `run` folder")]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something else has its name.
    #[error("{path} is there and is no socket; remove it, or configure another `run` folder")]
    NoSocket {
        /// The path.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("{operation} {path}: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

/// Whether somebody answers at `path`.
pub fn is_served(path: &Path) -> bool {
    StdStream::connect(path).is_ok()
}

/// Listen at `path`, for root only: whoever may write there runs pods, which is the same as being root.
///
/// A socket that a dead agent left is replaced. The new one is made under another name and renamed into place, so that there is no moment at
/// which others could connect or at which it is missing.
pub fn listen(path: &Path) -> Result<UnixListener, Error> {
    let fail = |operation, path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io {
            operation,
            path,
            source,
        }
    };
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder).map_err(fail("create folder", folder))?;
    match fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => {
            return Err(Error::NoSocket {
                path: path.to_owned(),
            });
        }
        Ok(_) if is_served(path) => {
            return Err(Error::InUse {
                path: path.to_owned(),
            });
        }
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(fail("look at", path)(error)),
    }
    let fresh = path.with_extension(format!("{}.new", std::process::id()));
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(fail("remove", &fresh)(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&fresh).map_err(fail("listen at", &fresh))?;
    fs::set_permissions(&fresh, Permissions::from_mode(0o600)).map_err(fail("restrict", &fresh))?;
    fs::rename(&fresh, path).map_err(fail("rename into place", path))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doors::temporary::Folder;

    #[tokio::test]
    async fn a_dead_agents_socket_is_replaced_and_a_live_ones_is_not() {
        let folder = Folder::new("control-socket");
        let path = folder.path().join("run/keelson.sock");
        let first = listen(&path).expect("a fresh one");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "for root only");
        let error = listen(&path).expect_err("in use").to_string();
        assert!(error.contains("another agent answers"), "{error}");
        drop(first);
        let _second = listen(&path).expect("replaces the dead one");
        assert!(StdStream::connect(&path).is_ok());
        assert_eq!(
            fs::read_dir(path.parent().expect("parent"))
                .expect("list")
                .count(),
            1,
            "no leftovers"
        );
    }

    #[tokio::test]
    async fn a_file_of_another_kind_is_left_alone() {
        let folder = Folder::new("control-no-socket");
        let path = folder.path().join("keelson.sock");
        fs::write(&path, "precious").expect("write");
        let error = listen(&path).expect_err("refused").to_string();
        assert!(error.contains("is no socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).expect("there"), "precious");
    }
}
