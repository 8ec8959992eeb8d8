//! What can go wrong inside, and what callers are told of it.

use rusqlite::ErrorCode;

use crate::store::StoreError;

/// SQLITE_IOERR_SHMSIZE: no room to grow the WAL's index, which is a full disk by another name.
const NO_ROOM_FOR_SHM: i32 = rusqlite::ffi::SQLITE_IOERR_SHMSIZE;

/// Why a step failed.
#[derive(Debug)]
pub(super) enum Fault {
    Sql(rusqlite::Error),
    /// Something stored cannot be read.
    Unreadable(String),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sql(error)
    }
}

/// What the writer does about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Somebody held the write lock for too long.
    Busy,
    /// Make room and try again.
    Full,
    /// The connection cannot be trusted any more (a failed fsync may have dropped pages): open a new one.
    Reopen,
    None,
}

impl Fault {
    pub(super) fn remedy(&self) -> Remedy {
        let Self::Sql(rusqlite::Error::SqliteFailure(failure, _)) = self else { return Remedy::None };
        match failure.code {
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => Remedy::Busy,
            ErrorCode::DiskFull => Remedy::Full,
            ErrorCode::SystemIoFailure if failure.extended_code == NO_ROOM_FOR_SHM => Remedy::Full,
            ErrorCode::SystemIoFailure | ErrorCode::CannotOpen => Remedy::Reopen,
            _ => Remedy::None,
        }
    }

    pub(super) fn into_store(self) -> StoreError {
        let remedy = self.remedy();
        match self {
            Self::Unreadable(what) => StoreError::Corrupt(what),
            Self::Sql(error) => match (remedy, &error) {
                (Remedy::Busy, _) => {
                    StoreError::Unavailable(format!("another process keeps the file locked: {error}"))
                }
                (Remedy::Full, _) => StoreError::NearLimit(format!("the disk is full: {error}")),
                (Remedy::Reopen, _) => StoreError::Unavailable(error.to_string()),
                (Remedy::None, rusqlite::Error::SqliteFailure(failure, _)) => match failure.code {
                    ErrorCode::ReadOnly
                    | ErrorCode::PermissionDenied
                    | ErrorCode::AuthorizationForStatementDenied => StoreError::Unfit(error.to_string()),
                    ErrorCode::OutOfMemory
                    | ErrorCode::OperationInterrupted
                    | ErrorCode::OperationAborted => StoreError::Unavailable(error.to_string()),
                    _ => StoreError::Corrupt(error.to_string()),
                },
                (Remedy::None, _) => StoreError::Corrupt(error.to_string()),
            },
        }
    }
}
