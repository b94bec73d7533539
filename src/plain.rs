//! Whether the access methods alone do all that a statement on one of our tables would: what [`crate::table`] may be used
//! for, asked once and remembered until the relation changes.

use pgrx::prelude::*;
use std::cell::{Cell, RefCell};
use std::ffi::CStr;
use std::ptr::read;

/// A table of schema coupon, and how it is used.
pub struct Source {
    pub name: &'static CStr,
    /// The leading columns it must still have, by name and type; later ones are carried along.
    pub columns: &'static [(&'static CStr, pg_sys::Oid)],
    /// Rows are locked, updated and inserted too.
    pub write: bool,
    /// The index to probe where it is not one over all rows: what it leaves out is not found.
    pub index: Option<&'static CStr>,
}

/// A table that was found to be plain, and its index over the first column (invalid where none was asked for).
#[derive(Clone, Copy, PartialEq)]
pub struct Plain {
    pub name: &'static CStr,
    pub user: pg_sys::Oid,
    pub relation: pg_sys::Oid,
    pub index: pg_sys::Oid,
}

thread_local! {
    /// What was checked, until PostgreSQL says that a relation has changed.
    static CHECKED: RefCell<Vec<Plain>> = const { RefCell::new(Vec::new()) };
    static LISTENING: Cell<bool> = const { Cell::new(false) };
}

/// A relation was altered, dropped, renamed, granted or published.
unsafe extern "C-unwind" fn altered(_: pg_sys::Datum, relation: pg_sys::Oid) {
    let of = |p: &Plain| p.relation == relation || p.index == relation;
    CHECKED.with_borrow_mut(|kept| kept.retain(|p| relation != pg_sys::Oid::INVALID && !of(p)));
}

pub fn remember(plain: Plain) {
    if !LISTENING.replace(true) {
        // SAFETY: registered once a backend, for as long as it lives.
        unsafe { pg_sys::CacheRegisterRelcacheCallback(Some(altered), pg_sys::Datum::from(0)) };
    }
    CHECKED.with_borrow_mut(|kept| {
        kept.retain(|p| p.name != plain.name);
        kept.push(plain);
    });
}

pub fn checked(name: &CStr) -> Option<Plain> {
    // SAFETY: plain read.
    let user = unsafe { pg_sys::GetUserId() };
    CHECKED.with_borrow(|kept| kept.iter().find(|p| p.name == name && p.user == user).copied())
}

/// Opens what can be locked at once: waiting is left to the statements, whose waits are bounded.
pub fn open_relation(oid: pg_sys::Oid, mode: i32) -> Option<pg_sys::Relation> {
    // SAFETY: the lock is held to the end of the (sub)transaction, as a statement's would be.
    unsafe {
        if oid == pg_sys::Oid::INVALID || !pg_sys::ConditionalLockRelationOid(oid, mode) {
            return None;
        }
        let relation = pg_sys::try_relation_open(oid, pg_sys::NoLock as i32);
        (!relation.is_null()).then_some(relation)
    }
}

/// Whether the access methods alone do all that a statement on this table would.
///
/// # Safety
/// The relation is open.
pub unsafe fn is_plain(relation: pg_sys::Relation, source: &Source) -> bool {
    let Source { name, columns, write, .. } = *source;
    // SAFETY: the caller's; the relation's cache entry holds all that is read here.
    unsafe {
        let (entry, descriptor) = (&*(*relation).rd_rel, &*(*relation).rd_att);
        let writing = pg_sys::ACL_UPDATE | pg_sys::ACL_INSERT;
        let rights = pg_sys::ACL_SELECT | if write { writing } else { 0 };
        let (user, all) = (pg_sys::GetUserId(), pg_sys::AclMaskHow::ACLMASK_ALL);
        let plain = CStr::from_ptr(entry.relname.data.as_ptr()) == name
            && entry.relkind == pg_sys::RELKIND_RELATION as i8
            && entry.relam == pg_sys::HEAP_TABLE_AM_OID
            && !entry.relhassubclass
            && !entry.relispartition
            && !entry.relhasrules
            && !entry.relrowsecurity
            && columns.len() <= descriptor.natts as usize
            && columns.iter().zip(descriptor.attrs.as_slice(columns.len())).all(|((name, typ), a)| {
                !a.attisdropped && a.atttypid == *typ && CStr::from_ptr(a.attname.data.as_ptr()) == *name
            })
            && pg_sys::pg_class_aclmask((*relation).rd_id, user, rights, all) == rights;
        if !plain || !write {
            return plain;
        }
        let constraints = descriptor.constr;
        let unconstrained =
            constraints.is_null() || (*constraints).num_check == 0 && !(*constraints).has_generated_stored;
        if unconstrained && (*relation).trigdesc.is_null() {
            // As for any UPDATE: an ERROR where a publication could not replicate it.
            pg_sys::CheckCmdReplicaIdentity(relation, pg_sys::CmdType::CMD_UPDATE);
            return true;
        }
        false
    }
}

/// Whether rows of its first `columns` are whole rows: nothing would have to be filled in.
///
/// # Safety
/// The relation is open.
pub unsafe fn has_only(relation: pg_sys::Relation, columns: usize) -> bool {
    // SAFETY: the caller's.
    unsafe {
        let descriptor = &*(*relation).rd_att;
        descriptor.natts as usize == columns && (descriptor.constr.is_null() || (*descriptor.constr).num_defval == 0)
    }
}

/// The oldest valid unique B-tree over exactly the first column of a table, compared as text: the one that is named, or one
/// over all rows, which need not be unique where the table is only read.
pub fn first_column_index(relation: pg_sys::Relation, source: &Source) -> Option<pg_sys::Relation> {
    // SAFETY: the relation is open; the list is a copy of ours, and what does not fit is closed again.
    unsafe {
        let list = pg_sys::RelationGetIndexList(relation);
        let count = if list.is_null() { 0 } else { (*list).length };
        let found = (0..count).find_map(|n| {
            let index = open_relation(pg_sys::list_nth_oid(list, n), pg_sys::AccessShareLock as i32)?;
            let (class, form) = (&*(*index).rd_rel, (*index).rd_index);
            let wanted = match source.index {
                Some(name) => CStr::from_ptr(class.relname.data.as_ptr()) == name,
                None => pg_sys::RelationGetIndexPredicate(index).is_null(),
            };
            let fits = wanted
                && class.relam == pg_sys::BTREE_AM_OID
                && (*form).indisvalid
                && !(*form).indcheckxmin
                && (!source.write && source.index.is_none() || (*form).indisunique && (*form).indimmediate)
                && (*form).indnatts == 1
                && read((*form).indkey.values.as_ptr()) == 1
                && *(*index).rd_opfamily == pg_sys::TEXT_BTREE_FAM_OID;
            if !fits {
                pg_sys::relation_close(index, pg_sys::NoLock as i32);
            }
            fits.then_some(index)
        });
        pg_sys::list_free(list);
        found
    }
}
