//! Imports the tables in an order in which each one comes after those that it depends on.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::TryStreamExt as _;
use indicatif::ProgressBar;
use skytrail_actors::accounts::ports::PasswordHasher as _;
use skytrail_actors::import::{ImportOptions, ImportedType, Importer, Outcome, Relations};
use skytrail_schema::acl::Acl;
use skytrail_schema::code::ApiError;
use skytrail_schema::field_access::FieldAccess;
use skytrail_schema::id::{RoleName, TypeName};
use skytrail_schema::predicate::Relation;

use super::layout::{Layout, Table, text};
use super::record;
use super::source::{Row, Rows, Source};
use super::system_tables;
use crate::auth::password::Argon2Hasher;
use crate::config::Config;
use crate::import::files::{AssetSource, Copier, KnownFile};
use crate::import::{Report, spinner};
use crate::record_store::offline::Offline;

/// The greatest number of rows in one commit,
const BATCH_ROWS: usize = 500;
/// and their greatest size together.
const BATCH_BYTES: usize = 1 << 20;

/// What to import, and how.
pub struct Options {
    /// The database's address.
    pub url: String,
    /// The app's name in that database.
    pub app: String,
    /// Where the files are; if not given, files are only registered.
    pub assets: Option<AssetSource>,
    /// How to import.
    pub import: ImportOptions,
}

struct Run<'a> {
    config: &'a Config,
    offline: &'a Offline,
    importer: Importer,
    source: Source,
    report: &'a mut Report,
    copier: Option<Copier>,
    is_dry: bool,
    bar: ProgressBar,
}

/// Imports a v1 database. Needs an actor system.
///
/// # Errors
/// Returns a sentence: a server runs here, the database cannot be read, or something failed on the
/// way. What was imported before that stays.
pub async fn run(config: &Config, options: &Options, report: &mut Report) -> Result<(), String> {
    let source = Source::open(&options.url, &options.app).await?;
    let copier = match &options.assets {
        Some(assets) => Some(Copier::open(assets).await?),
        None => None,
    };
    let offline = Offline::open(config).await?;
    let env = offline.env.clone();
    let bar = spinner("")?;
    let done = Run {
        config,
        offline: &offline,
        importer: Importer::new(env, options.import),
        source,
        report,
        copier,
        is_dry: options.import.is_dry,
        bar: bar.clone(),
    }
    .all()
    .await;
    bar.finish_and_clear();
    let closed = offline.close().await;
    done.and(closed)
}

impl Run<'_> {
    async fn all(&mut self) -> Result<(), String> {
        let layout = Layout::read(&mut self.source).await?;
        for table in system_tables::TABLES {
            if !layout.others.contains_key(table) {
                let reason = "upgrade it to Skygear 1.7 first";
                return Err(format!("the database has no table {table}: {reason}"));
            }
        }
        for (table, what, why) in &layout.left_out {
            self.remark(table, what, why)?;
        }
        self.roles().await?;
        let installed = self.importer.install(&self.config.app.auth_record_keys);
        installed.await.map_err(message_of)?;
        let mut tables = layout.tables;
        self.types(&mut tables).await?;
        self.field_access().await?;
        self.assets().await?;
        self.users().await?;
        for table in &tables {
            self.records(table, false).await?;
        }
        // Cyclic tables are imported a second time: now all that they refer to exists here.
        for table in tables.iter().filter(|table| table.is_cyclic) {
            self.records(table, true).await?;
        }
        self.relations("_follow", Relation::Follow, system_tables::FOLLOWS)
            .await?;
        self.relations("_friend", Relation::Friend, system_tables::FRIENDS)
            .await?;
        self.devices().await?;
        self.subscriptions().await
    }

    async fn roles(&mut self) -> Result<(), String> {
        self.begin("_role");
        let mut rows = self.source.query(system_tables::ROLES);
        while let Some(batch) = batch(&mut rows).await? {
            let roles: Vec<_> = batch.iter().map(system_tables::role).collect();
            let outcomes = self.importer.roles(&roles).await.map_err(message_of)?;
            for ((name, _), outcome) in roles.iter().zip(&outcomes) {
                note(self.report, "_role", name.as_str(), outcome)?;
            }
        }
        Ok(())
    }

    /// Imports the types before their records, as far as possible: a field that has another type
    /// here is left out.
    async fn types(&mut self, tables: &mut [Table]) -> Result<(), String> {
        const TYPES: &str = "record types";
        self.begin(TYPES);
        let (mut access, mut creation) = self.settings().await?;
        let mut all = Vec::new();
        for table in tables.iter() {
            all.push(ImportedType {
                name: table.name.clone(),
                is_created: true,
                fields: table.fields.clone(),
                unique: table.unique.clone(),
                counters: table.counters.clone(),
                default_access: access.remove(&table.name),
                creation_roles: creation.remove(&table.name).unwrap_or_default(),
            });
        }
        // Settings can exist before their type does.
        let others: BTreeSet<TypeName> = access.keys().chain(creation.keys()).cloned().collect();
        for name in others {
            all.push(ImportedType {
                default_access: access.remove(&name),
                creation_roles: creation.remove(&name).unwrap_or_default(),
                name,
                is_created: false,
                fields: BTreeMap::new(),
                unique: Vec::new(),
                counters: BTreeMap::new(),
            });
        }
        for imported in all {
            if imported.name.is_reserved() {
                let reason = "record types that start with _ are reserved".to_owned();
                let outcome = Outcome::Refused(reason);
                note(self.report, TYPES, imported.name.as_str(), &outcome)?;
                continue;
            }
            let taken = self.importer.record_type(&imported).await;
            let (outcome, clashes) = taken.map_err(message_of)?;
            note(self.report, TYPES, imported.name.as_str(), &outcome)?;
            let table = tables.iter_mut().find(|table| table.name == imported.name);
            for (field, why) in clashes {
                if let Some(table) = &table {
                    let name = table.name.to_string();
                    self.remark(&name, &format!("field {field}"), &why)?;
                }
            }
            if let Some(table) = table {
                let here = self.importer.definition(&table.name);
                table
                    .fields
                    .retain(|field, kind| match here.fields.get(field) {
                        Some(here) => here == kind || here.wire_name() == kind.wire_name(),
                        None => true,
                    });
            }
        }
        Ok(())
    }

    async fn settings(
        &mut self,
    ) -> Result<
        (
            BTreeMap<TypeName, Acl>,
            BTreeMap<TypeName, BTreeSet<RoleName>>,
        ),
        String,
    > {
        let (mut access, mut creation) = (BTreeMap::new(), BTreeMap::new());
        let mut rows = self.source.query(system_tables::DEFAULT_ACCESS);
        while let Some((row, _)) = rows.try_next().await? {
            match system_tables::default_access(&row) {
                Ok((name, list)) => drop(list.map(|list| access.insert(name, list))),
                Err(why) => {
                    let outcome = Outcome::Refused(why);
                    let name = text(&row, "record_type");
                    note(self.report, "_record_default_access", name, &outcome)?;
                }
            }
        }
        drop(rows);
        let mut rows = self.source.query(system_tables::CREATION_ROLES);
        while let Some((row, _)) = rows.try_next().await? {
            system_tables::creation_role(&row, &mut creation);
        }
        Ok((access, creation))
    }

    async fn field_access(&mut self) -> Result<(), String> {
        const TABLE: &str = "_record_field_access";
        self.begin(TABLE);
        let rows = self.source.query(system_tables::FIELD_ACCESS);
        let rows: Vec<_> = rows.map_ok(|(row, _)| row.into()).try_collect().await?;
        // All rules together are one value here.
        let outcome = match FieldAccess::from_wire(&rows) {
            Ok(rules) => self
                .importer
                .field_access(rules)
                .await
                .map_err(message_of)?,
            Err(error) => Outcome::Refused(error.message.to_string()),
        };
        note(self.report, TABLE, "all", &outcome)
    }

    async fn assets(&mut self) -> Result<(), String> {
        const TABLE: &str = "_asset";
        self.begin(TABLE);
        let mut rows = self.source.query(system_tables::ASSETS);
        while let Some(batch) = batch(&mut rows).await? {
            let batch = parsed(self.report, TABLE, "id", batch, |row| {
                system_tables::asset(row)
            })?;
            let outcomes = self
                .importer
                .assets(batch.clone())
                .await
                .map_err(message_of)?;
            for ((name, state), outcome) in batch.iter().zip(&outcomes) {
                note(self.report, TABLE, name.as_str(), outcome)?;
                let is_here = !matches!(outcome, Outcome::Refused(_) | Outcome::Kept(_));
                if let Some(copier) = self.copier.as_ref().filter(|_| is_here && !self.is_dry) {
                    let file = KnownFile {
                        name,
                        state,
                        has_arrived: true,
                    };
                    let copied = copier.copy(&self.offline.files, file, self.report);
                    copied.await?;
                }
            }
            self.bar.inc(batch.len() as u64);
        }
        Ok(())
    }

    async fn users(&mut self) -> Result<(), String> {
        const TABLE: &str = "_auth";
        self.begin(TABLE);
        let hasher = Argon2Hasher::new(1);
        let mut rows = self.source.query(system_tables::USERS);
        while let Some(batch) = batch(&mut rows).await? {
            let mut users = parsed(self.report, TABLE, "id", batch, system_tables::auth)?;
            for (id, state) in &mut users {
                if let Some(hash) = state.password_hash.take_if(|hash| !hasher.is_hash(hash)) {
                    drop(hash);
                    let why = "the password hash is not a bcrypt hash: a new password must be set";
                    let noted = self.report.remark(TABLE, id.as_str(), why);
                    noted.map_err(|error| error.to_string())?;
                }
            }
            let ids: Vec<_> = users.iter().map(|(id, _)| id.clone()).collect();
            let outcomes = self.importer.users(users).await.map_err(message_of)?;
            for (id, outcome) in ids.iter().zip(&outcomes) {
                note(self.report, TABLE, id.as_str(), outcome)?;
            }
            self.bar.inc(ids.len() as u64);
        }
        Ok(())
    }

    /// Imports a table's records; with `again`, completes what was left out the first time.
    async fn records(&mut self, table: &Table, again: bool) -> Result<(), String> {
        self.begin(table.name.as_str());
        let name = table.name.as_str();
        let mut rows = self.source.records(name, &table.selects());
        while let Some(batch) = batch(&mut rows).await? {
            let mut records = Vec::with_capacity(batch.len());
            for mut row in batch {
                match record::record(table, &mut row) {
                    Ok(record) => records.push(record),
                    Err(_) if again => {}
                    Err(why) => {
                        let outcome = Outcome::Refused(why);
                        note(self.report, name, text(&row, "_id"), &outcome)?;
                    }
                }
            }
            let ids: Vec<_> = records.iter().map(|record| record.id.clone()).collect();
            let postpones = table.is_cyclic && !again;
            let outcomes = self.importer.records(records, postpones).await;
            for (id, outcome) in ids.iter().zip(&outcomes.map_err(message_of)?) {
                // These rows are counted already; only references that turn out to be missing are
                // noted.
                match outcome {
                    Outcome::Refused(why) if again => {
                        let noted = self.report.remark(name, id.key.as_str(), why);
                        noted.map_err(|error| error.to_string())?;
                    }
                    _ if again => {}
                    outcome => note(self.report, name, id.key.as_str(), outcome)?,
                }
            }
            self.bar.inc(ids.len() as u64);
        }
        Ok(())
    }

    async fn relations(
        &mut self,
        table: &str,
        relation: Relation,
        sql: &'static str,
    ) -> Result<(), String> {
        self.begin(table);
        let mut rows = self.source.query(sql);
        while let Some(batch) = batch(&mut rows).await? {
            let mut relations: Vec<Relations> = Vec::new();
            for row in &batch {
                let (from, to) = (text(row, "left_id"), text(row, "right_id"));
                match relations.last_mut() {
                    Some(last) if last.user.as_str() == from => last.others.push(to.into()),
                    _ => relations.push(Relations {
                        relation,
                        user: from.into(),
                        others: vec![to.into()],
                    }),
                }
            }
            let outcomes = self
                .importer
                .relations(&relations)
                .await
                .map_err(message_of)?;
            for (row, outcome) in batch.iter().zip(&outcomes) {
                let id = format!("{} {}", text(row, "left_id"), text(row, "right_id"));
                note(self.report, table, &id, outcome)?;
            }
            self.bar.inc(batch.len() as u64);
        }
        Ok(())
    }

    async fn devices(&mut self) -> Result<(), String> {
        const TABLE: &str = "_device";
        self.begin(TABLE);
        let mut rows = self.source.query(system_tables::DEVICES);
        while let Some(batch) = batch(&mut rows).await? {
            let devices = parsed(self.report, TABLE, "id", batch, |row| {
                system_tables::device(row)
            })?;
            let ids: Vec<_> = devices.iter().map(|(id, _)| id.clone()).collect();
            let outcomes = self
                .importer
                .devices(self.offline.devices.as_ref(), devices)
                .await
                .map_err(message_of)?;
            for (id, outcome) in ids.iter().zip(&outcomes) {
                note(self.report, TABLE, id.as_str(), outcome)?;
            }
            self.bar.inc(ids.len() as u64);
        }
        Ok(())
    }

    async fn subscriptions(&mut self) -> Result<(), String> {
        const TABLE: &str = "_subscription";
        self.begin(TABLE);
        let mut rows = self.source.query(system_tables::SUBSCRIPTIONS);
        while let Some(batch) = batch(&mut rows).await? {
            let parse = |row: &mut Row| system_tables::subscription(row);
            let mut all = parsed(self.report, TABLE, "id", batch, parse)?;
            // The rows of a device are adjacent.
            all.dedup_by(|next, before| {
                let is_same = next.device == before.device;
                if is_same {
                    before.subscriptions.append(&mut next.subscriptions);
                }
                is_same
            });
            let subscriptions = all.iter().flat_map(|it| &it.subscriptions);
            let ids: Vec<_> = subscriptions.map(|it| it.key.id.clone()).collect();
            let outcomes = self
                .importer
                .subscriptions(self.offline.devices.as_ref(), all)
                .await
                .map_err(message_of)?;
            for (id, outcome) in ids.iter().zip(&outcomes) {
                note(self.report, TABLE, id, outcome)?;
            }
        }
        Ok(())
    }

    fn begin(&mut self, table: &str) {
        self.report.look_at(table);
        self.bar.set_message(table.to_owned());
        self.bar.set_position(0);
    }

    fn remark(&mut self, table: &str, what: &str, why: &str) -> Result<(), String> {
        let noted = self.report.remark(table, what, why);
        noted.map_err(|error| error.to_string())
    }
}

/// Reads the next batch; `None` at the end.
async fn batch(rows: &mut Rows<'_>) -> Result<Option<Vec<Row>>, String> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    while batch.len() < BATCH_ROWS && bytes < BATCH_BYTES {
        let Some((row, size)) = rows.try_next().await? else {
            break;
        };
        batch.push(row);
        bytes += size;
    }
    Ok((!batch.is_empty()).then_some(batch))
}

/// Converts the rows of a batch, and notes those that cannot be converted.
fn parsed<T>(
    report: &mut Report,
    table: &str,
    id: &str,
    batch: Vec<Row>,
    parse: impl Fn(&mut Row) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let mut all = Vec::with_capacity(batch.len());
    for mut row in batch {
        match parse(&mut row) {
            Ok(parsed) => all.push(parsed),
            Err(why) => note(report, table, text(&row, id), &Outcome::Refused(why))?,
        }
    }
    Ok(all)
}

fn note(report: &mut Report, table: &str, id: &str, outcome: &Outcome) -> Result<(), String> {
    let noted = report.note(table, id, outcome);
    noted.map_err(|error| format!("the report cannot be written: {error}"))
}

fn message_of(error: ApiError) -> String {
    error.message.to_string()
}
