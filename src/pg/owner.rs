//! Reading the shop's own tables with the rights of their owners, as PostgreSQL does when it checks a foreign key: an
//! index's expression, a policy or a cast of theirs could otherwise run with our definer's rights.

use pgrx::prelude::*;

/// Runs `body` as a role, in a security-restricted operation; an ERROR inside restores the caller with the
/// (sub)transaction. A setting that the owner's code changes is put back: our search_path above all, which pins what the
/// caller runs next.
pub fn as_owner<T>(owner: pg_sys::Oid, body: impl FnOnce() -> T) -> T {
    let (mut user, mut context) = (pg_sys::Oid::INVALID, 0);
    // SAFETY: what PostgreSQL itself does around work for a table's owner; all is put back below.
    let nest = unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        let restricted = pg_sys::SECURITY_LOCAL_USERID_CHANGE | pg_sys::SECURITY_RESTRICTED_OPERATION;
        pg_sys::SetUserIdAndSecContext(owner, context | restricted as i32);
        pg_sys::NewGUCNestLevel()
    };
    let done = body();
    // SAFETY: as above.
    unsafe {
        pg_sys::AtEOXact_GUC(false, nest);
        pg_sys::SetUserIdAndSecContext(user, context);
    }
    done
}
