//! Which fields queries may use.

use super::{FieldRules, FieldUse};
use crate::caller::Caller;
use crate::code::{ApiError, Code};
use crate::id::TypeName;
use crate::predicate::column::Types;
use crate::predicate::{Column, CompareOp, KeyPath, Operand, Predicate};
use crate::query::{Query, SortKey};
use crate::types::TypeDefinition;

impl FieldRules {
    /// Checks the fields that a query uses: predicate, then sort, then include.
    ///
    /// `types` contains the queried type and those that its references name. Paths with dots are
    /// also validated here, before the query runs.
    ///
    /// # Errors
    /// 124 for the first field that the caller must not use in this way, 120 for a dotted path that
    /// leads nowhere.
    pub fn check_query<T: Types + ?Sized>(
        &self,
        query: &Query,
        caller: &Caller,
        types: &T,
    ) -> Result<(), ApiError> {
        if caller.is_master() {
            return Ok(());
        }
        let unknown;
        let definition = match types.definition(&query.record_type) {
            Some(definition) => definition,
            None => {
                unknown = TypeDefinition::empty(query.record_type.clone());
                &unknown
            }
        };
        if let Some(predicate) = &query.predicate {
            self.check_predicate(predicate, caller, (definition, types))?;
        }
        let check = QueryCheck {
            rules: self,
            caller,
            definition,
            types,
        };
        for sort in &query.sort {
            match &sort.by {
                SortKey::Path(path) => check.path(path, FieldUse::Compare)?,
                SortKey::Distance { field, .. } => check.field(field, FieldUse::Compare)?,
            }
        }
        query
            .include
            .values()
            .try_for_each(|operand| check.operand(operand, FieldUse::Read))
    }

    /// Checks the fields that a predicate about records of one type uses; `types` as in
    /// [`Self::check_query`].
    ///
    /// # Errors
    /// Those of [`Self::check_query`].
    pub fn check_predicate<T: Types + ?Sized>(
        &self,
        predicate: &Predicate,
        caller: &Caller,
        (definition, types): (&TypeDefinition, &T),
    ) -> Result<(), ApiError> {
        if caller.is_master() {
            return Ok(());
        }
        let check = QueryCheck {
            rules: self,
            caller,
            definition,
            types,
        };
        check.predicate(predicate, FieldUse::Discover)
    }
}

struct QueryCheck<'a, T: ?Sized> {
    rules: &'a FieldRules,
    caller: &'a Caller,
    definition: &'a TypeDefinition,
    types: &'a T,
}

impl<T: Types + ?Sized> QueryCheck<'_, T> {
    /// Under anything but `and`, `eq` and `in`, a field must be comparable.
    fn predicate(&self, predicate: &Predicate, field_use: FieldUse) -> Result<(), ApiError> {
        match predicate {
            Predicate::And(parts) => parts
                .iter()
                .try_for_each(|part| self.predicate(part, field_use)),
            Predicate::Or(parts) => parts
                .iter()
                .try_for_each(|part| self.predicate(part, FieldUse::Compare)),
            Predicate::Not(part) => self.predicate(part, FieldUse::Compare),
            Predicate::Compare(CompareOp::Eq, left, right) | Predicate::In(left, right) => {
                self.operand(left, field_use)?;
                self.operand(right, field_use)
            }
            Predicate::Compare(_, left, right) => {
                self.operand(left, FieldUse::Compare)?;
                self.operand(right, FieldUse::Compare)
            }
            Predicate::UserRelation { field, .. } => self.field(field, FieldUse::Compare),
        }
    }

    fn operand(&self, operand: &Operand, field_use: FieldUse) -> Result<(), ApiError> {
        match operand {
            Operand::Path(path) => self.path(path, field_use),
            Operand::Distance { field, .. } if field_use == FieldUse::Read => {
                self.field(field, field_use)
            }
            Operand::Distance { field, .. } => self.field(field, FieldUse::Compare),
            Operand::Literal(_) => Ok(()),
        }
    }

    fn path(&self, path: &KeyPath, field_use: FieldUse) -> Result<(), ApiError> {
        if let [field] = path.0.as_slice() {
            return self.component(&self.definition.name, field, field_use);
        }
        let column = Column::resolve(path, self.definition, self.types)?;
        if let Some(via) = &column.via {
            self.component(&self.definition.name, &via.field, field_use)?;
            self.component(&via.target, &column.name, field_use)?;
        }
        Ok(())
    }

    fn field(&self, field: &str, field_use: FieldUse) -> Result<(), ApiError> {
        self.component(&self.definition.name, field, field_use)
    }

    fn component(
        &self,
        record_type: &TypeName,
        field: &str,
        field_use: FieldUse,
    ) -> Result<(), ApiError> {
        let of = (record_type.as_str(), field);
        if self.rules.allows(field_use, of, self.caller, None) {
            return Ok(());
        }
        let needed = match field_use {
            FieldUse::Discover => "discoverable or comparable",
            FieldUse::Compare => "comparable",
            FieldUse::Read => "readable",
            FieldUse::Write => "writable",
        };
        let text =
            format!("Cannot query on field \"{field}\" due to Field ACL, need to be {needed}");
        Err(ApiError::new(Code::RecordQueryDenied, text))
    }
}
