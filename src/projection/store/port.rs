//! The store's port, implemented on a database.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use skytrail_actors::record::apply as fold;
use skytrail_actors::store::{
    HeadSource, NoHeads, QueryAnswer, RecordStore, Referrers, RelatedPage, Snapshot,
    SnapshotAnswer, StoreError, Viewer,
};
use skytrail_schema::event::{AssetState, Commit, EventKind, Service, Stream, UserState};
use skytrail_schema::id::{AssetName, RecordId, RecordKey, TypeName, UserId};
use skytrail_schema::predicate::Relation;
use skytrail_schema::query::Query;
use skytrail_schema::record::Head;
use skytrail_schema::types::TypeDefinition;
use skytrail_schema::value::Value;
use sqlx::Connection as _;
use tokio::time::{sleep, timeout};

use super::turns::Asked;
use super::{SqlStore, StoreLocation, WriterConn, open_writer_of};
use crate::projection::conn::Conn;
use crate::projection::layout::Catalog;
use crate::projection::postgres::{self, silent};
use crate::projection::query::QueryError;
use crate::projection::{accounts, captured, history, numbered, query, read};

/// Runs a read on a connection, and converts its errors for the port. With a definition, it reads
/// from the type's table; if the type has none yet, the method returns an empty answer.
macro_rules! reading {
    ($store:expr, $conn:ident => $read:expr) => {{
        let mut reader = $store.reader().await?;
        let mut $conn = reader.conn().map_err(|error| $store.failed(error))?;
        $read.await.map_err(|error| $store.failed(error))
    }};
    ($store:expr, $definition:expr, $conn:ident, $table:ident => $read:expr) => {{
        let mut reader = $store.reader().await?;
        let layout = reader.layout($definition);
        let Some($table) = layout.as_ref().and_then(|layout| layout.table.as_ref()) else {
            return Ok(Default::default());
        };
        let mut $conn = reader.conn().map_err(|error| $store.failed(error))?;
        $read.await.map_err(|error| $store.failed(error))
    }};
}

/// Which records a query is about.
#[derive(Clone, Copy)]
enum Kind<'a> {
    /// Those of now, with the heads that are in memory.
    Now(&'a dyn HeadSource),
    /// Those of one snapshot, and up to so many records of some types that SQL has changed.
    Snapshot((&'a [TypeName], usize)),
    /// Those of an earlier position, when the type was as in the definition.
    AsOf(&'a dyn HeadSource, (u64, &'a TypeDefinition)),
}

/// A query's answer; what it says of its snapshot counts only if one was asked for. `None` when the
/// store does not have the records of that time.
type Answered = Option<SnapshotAnswer>;

fn answered(answer: QueryAnswer) -> SnapshotAnswer {
    SnapshotAnswer {
        answer,
        ..SnapshotAnswer::default()
    }
}

impl SqlStore {
    /// Answers a query in its turn.
    async fn ask(
        &self,
        request: (&Query, &Viewer<'_>),
        kind: Kind<'_>,
    ) -> Result<Answered, StoreError> {
        let asked = Asked::new(request.0, request.1);
        let mut was_broken_off = false;
        loop {
            let mut turn = self.turn(&asked, was_broken_off).await?;
            let mut reader = self.reader().await?;
            let catalog = Arc::clone(&reader.catalog);
            let mut conn = reader.conn().map_err(|error| self.failed(error))?;
            let work = async {
                let answered = self.answer(&mut conn, &catalog, request, kind).await;
                match answered {
                    Err(error) if error.is_stale() => {
                        self.answer(&mut conn, &catalog, request, kind).await
                    }
                    answered => answered,
                }
            };
            if let Some(answered) = self.turns.run(&mut turn, &asked, work).await {
                return answered.map_err(|error| self.note(error));
            }
            was_broken_off = true;
            if let StoreLocation::Server(_) = &self.home {
                // The slot is free when the database has noticed it, so that it never has more
                // connections than slots.
                drop(reader);
                sleep(2 * postgres::NOTICE).await;
            }
        }
    }

    async fn answer(
        &self,
        conn: &mut Conn<'_>,
        catalog: &Catalog,
        (query, viewer): (&Query, &Viewer<'_>),
        kind: Kind<'_>,
    ) -> Result<Answered, QueryError> {
        let max_bytes = self.max_page_bytes;
        match kind {
            Kind::Now(heads) => {
                let (context, heads) = ((catalog, &self.stats), (heads, max_bytes));
                let answer = query::query(conn, context, (query, viewer), heads).await?;
                Ok(Some(answered(answer)))
            }
            Kind::Snapshot(captured) => {
                let request = (query, viewer);
                let answer = self.query_now(conn, catalog, request, captured).await?;
                Ok(Some(answer))
            }
            Kind::AsOf(heads, moment) => {
                let (context, request) =
                    ((catalog, &self.stats, heads), (query, viewer, max_bytes));
                let answer = query::query_as_of(conn, context, request, moment).await?;
                Ok(answer.map(answered))
            }
        }
    }

    /// Answers a query from a snapshot.
    async fn query_now(
        &self,
        conn: &mut Conn<'_>,
        catalog: &Catalog,
        request: (&Query, &Viewer<'_>),
        (types, max_captured): (&[TypeName], usize),
    ) -> Result<SnapshotAnswer, QueryError> {
        let mut tx = conn.begin().await?;
        // The first read: from here on the transaction sees this snapshot.
        let position = read::checkpoint(&mut tx.conn()).await?;
        let heads = (&NoHeads as &dyn HeadSource, self.max_page_bytes);
        let answer = query::query(&mut tx.conn(), (catalog, &self.stats), request, heads).await?;
        let captured = match &self.home {
            StoreLocation::File(_) => Vec::new(),
            StoreLocation::Server(_) => {
                captured::list_some(&mut tx.conn(), catalog, types, max_captured).await?
            }
        };
        tx.rollback().await?;
        Ok(SnapshotAnswer {
            position,
            answer,
            captured,
        })
    }
}

#[async_trait]
impl RecordStore for SqlStore {
    async fn load_snapshot(&self) -> Result<Snapshot, StoreError> {
        reading!(self, conn => read::snapshot(&mut conn))
    }

    async fn load_heads(
        &self,
        definition: &TypeDefinition,
        keys: &[RecordKey],
    ) -> Result<Vec<Option<Head>>, StoreError> {
        let mut reader = self.reader().await?;
        let Some(layout) = reader.layout(definition) else {
            return Ok(vec![None; keys.len()]);
        };
        let mut conn = reader.conn().map_err(|error| self.failed(error))?;
        read::heads(&mut conn, &layout, keys)
            .await
            .map_err(|error| self.failed(error))
    }

    async fn find_by_fields(
        &self,
        definition: &TypeDefinition,
        fields: &[(&str, &Value)],
    ) -> Result<Option<RecordKey>, StoreError> {
        let found = reading!(self, definition, conn, table => {
            read::list_by_fields(&mut conn, table, fields, (None, 1))
        })?;
        Ok(found.into_iter().next())
    }

    async fn list_by_fields(
        &self,
        definition: &TypeDefinition,
        fields: &[(&str, &Value)],
        besides: &RecordKey,
    ) -> Result<Vec<RecordKey>, StoreError> {
        const MANY: u64 = 16;
        reading!(self, definition, conn, table => {
            read::list_by_fields(&mut conn, table, fields, (Some(besides), MANY))
        })
    }

    async fn find_shared(
        &self,
        definition: &TypeDefinition,
        fields: &[String],
    ) -> Result<Option<[RecordKey; 2]>, StoreError> {
        reading!(self, definition, conn, table => read::find_shared(&mut conn, table, fields))
    }

    async fn find_captured(
        &self,
        definition: &TypeDefinition,
        keys: &[RecordKey],
    ) -> Result<HashSet<RecordKey>, StoreError> {
        if let StoreLocation::File(_) = self.home {
            return Ok(HashSet::new());
        }
        reading!(self, definition, conn, table => captured::find(&mut conn, &table.name, keys))
    }

    async fn list_captured(
        &self,
        definition: &TypeDefinition,
    ) -> Result<Vec<RecordKey>, StoreError> {
        if let StoreLocation::File(_) = self.home {
            return Ok(Vec::new());
        }
        reading!(self, definition, conn, table => captured::list(&mut conn, &table.name))
    }

    async fn find_referrers(
        &self,
        targets: &[RecordId],
        definitions: &[Arc<TypeDefinition>],
    ) -> Result<Referrers, StoreError> {
        let mut by_type: BTreeMap<&TypeName, Vec<&str>> = BTreeMap::new();
        for id in targets {
            let keys = by_type.entry(&id.record_type).or_default();
            keys.push(id.key.as_str());
        }
        let mut reader = self.reader().await?;
        let catalog = Arc::clone(&reader.catalog);
        let mut conn = reader.conn().map_err(|error| self.failed(error))?;
        let mut found = Referrers::default();
        for definition in definitions {
            let layout = catalog.get(&definition.name);
            let Some(table) = layout.and_then(|layout| layout.table.as_ref()) else {
                continue;
            };
            let of_type = (&definition.name, table);
            read::find_referrers(&mut conn, of_type, &by_type, &mut found)
                .await
                .map_err(|error| self.failed(error))?;
        }
        Ok(found)
    }

    async fn list_keys(
        &self,
        definition: &TypeDefinition,
        after: Option<&RecordKey>,
        limit: u32,
    ) -> Result<Vec<RecordKey>, StoreError> {
        reading!(self, definition, conn, table => read::keys(&mut conn, table, after, limit))
    }

    async fn count_records(&self, definition: &TypeDefinition) -> Result<u64, StoreError> {
        reading!(self, definition, conn, table => numbered::count(&mut conn, table))
    }

    async fn query(
        &self,
        query: &Query,
        viewer: &Viewer<'_>,
        heads: &dyn HeadSource,
    ) -> Result<QueryAnswer, StoreError> {
        let answered = self.ask((query, viewer), Kind::Now(heads)).await?;
        Ok(answered.map(|it| it.answer).unwrap_or_default())
    }

    async fn query_at(
        &self,
        query: &Query,
        viewer: &Viewer<'_>,
        captured: (&[TypeName], usize),
    ) -> Result<SnapshotAnswer, StoreError> {
        let kind = Kind::Snapshot(captured);
        let answered = self.ask((query, viewer), kind).await?;
        Ok(answered.unwrap_or_default())
    }

    async fn query_as_of(
        &self,
        query: &Query,
        viewer: &Viewer<'_>,
        heads: &dyn HeadSource,
        moment: (u64, &TypeDefinition),
    ) -> Result<Option<QueryAnswer>, StoreError> {
        let kind = Kind::AsOf(heads, moment);
        let answered = self.ask((query, viewer), kind).await?;
        Ok(answered.map(|it| it.answer))
    }

    async fn find_full_states(&self, at: &[(Stream, u64)]) -> Result<Vec<Option<u64>>, StoreError> {
        reading!(self, conn => history::find_full_states(&mut conn, at))
    }

    async fn list_creations(
        &self,
        streams: &[Stream],
        until: u64,
    ) -> Result<Vec<Vec<u64>>, StoreError> {
        reading!(self, conn => history::list_creations(&mut conn, streams, until))
    }

    async fn load_numbers(&self, at: &[(u64, u64)]) -> Result<Vec<Option<i64>>, StoreError> {
        reading!(self, conn => numbered::load(&mut conn, at))
    }

    async fn list_candidates(
        &self,
        ranges: &[(Stream, RangeInclusive<u64>)],
    ) -> Result<Vec<u64>, StoreError> {
        reading!(self, conn => history::list_candidates(&mut conn, ranges))
    }

    async fn list_candidates_before(
        &self,
        stream: &Stream,
        until: u64,
        limit: usize,
    ) -> Result<Vec<u64>, StoreError> {
        reading!(self, conn => history::list_candidates_before(&mut conn, stream, until, limit))
    }

    async fn list_positions_of_kind(
        &self,
        kind: EventKind,
        from: u64,
        until: u64,
    ) -> Result<Vec<u64>, StoreError> {
        reading!(self, conn => history::list_positions_of_kind(&mut conn, kind, from, until))
    }

    async fn list_positions_of_user(
        &self,
        user: &UserId,
        kinds: &[EventKind],
        until: u64,
    ) -> Result<Vec<u64>, StoreError> {
        reading!(self, conn => history::list_positions_of_user(&mut conn, user, kinds, until))
    }

    async fn scan(
        &self,
        definition: &TypeDefinition,
        owner: Option<&UserId>,
        after: i64,
        limit: usize,
    ) -> Result<Vec<(i64, Head)>, StoreError> {
        let mut reader = self.reader().await?;
        let Some(layout) = reader.layout(definition) else {
            return Ok(Vec::new());
        };
        let mut conn = reader.conn().map_err(|error| self.failed(error))?;
        read::scan(&mut conn, &layout, owner, (after, limit))
            .await
            .map_err(|error| self.failed(error))
    }

    async fn load_users(
        &self,
        ids: &[UserId],
    ) -> Result<Vec<Option<(u32, UserState)>>, StoreError> {
        reading!(self, conn => accounts::users(&mut conn, ids))
    }

    async fn find_linked(
        &self,
        service: &Service,
        principal: &str,
    ) -> Result<Option<UserId>, StoreError> {
        reading!(self, conn => accounts::linked(&mut conn, service, principal))
    }

    async fn load_assets(
        &self,
        names: &[AssetName],
    ) -> Result<Vec<Option<(u32, AssetState)>>, StoreError> {
        reading!(self, conn => read::assets(&mut conn, names))
    }

    async fn list_assets(
        &self,
        after: Option<&AssetName>,
        limit: u32,
    ) -> Result<Vec<AssetName>, StoreError> {
        reading!(self, conn => read::asset_names(&mut conn, after, limit))
    }

    async fn load_relations(
        &self,
        relation: Relation,
        from: &UserId,
        others: &[UserId],
    ) -> Result<(u32, BTreeSet<UserId>), StoreError> {
        reading!(self, conn => accounts::relations(&mut conn, relation, from, others))
    }

    async fn list_related(&self, page: &RelatedPage) -> Result<(Vec<UserId>, u64), StoreError> {
        reading!(self, conn => accounts::related_page(&mut conn, page))
    }

    fn num_faults(&self) -> u64 {
        self.num_faults.load(Ordering::Relaxed)
    }

    async fn apply(&self, commits: &[Arc<Commit>]) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().await;
        let writer = open_writer_of(&mut writer).map_err(|error| self.failed(error))?;
        let connected = self.reconnect(writer).await;
        connected.map_err(|error| self.failed(error))?;
        if let StoreLocation::Server(server) = &self.home {
            server.check_gap(writer.state.checkpoint, commits)?;
        }
        let mut events = commits.iter().flat_map(|commit| &commit.events);
        let alone = match events.any(|event| fold::reshapes(&event.body)) {
            true => Some(self.columns.write().await),
            false => None,
        };
        if let Err(error) = self.apply_over(writer, commits).await {
            if !postgres::is_held(&error) || !writer.end_undone().await {
                self.renew(writer, &error).await;
            }
            return Err(match &self.home {
                StoreLocation::File(_) => self.failed(error),
                StoreLocation::Server(_) => postgres::not_applied(&error),
            });
        }
        let new_faults = std::mem::take(&mut writer.state.new_faults);
        self.num_faults.fetch_add(new_faults, Ordering::Relaxed);
        if let StoreLocation::Server(server) = &self.home {
            server.reach(writer.state.checkpoint);
        }
        if !Arc::ptr_eq(&writer.state.catalog, &self.catalog.load()) {
            self.catalog.store(Arc::clone(&writer.state.catalog));
        }
        if alone.is_some() {
            self.stats.clear();
            if let StoreLocation::Server(server) = &self.home {
                let forgotten = server.forget_statements();
                forgotten.map_err(|error| self.failed(error))?;
            }
        }
        drop(alone);
        if let (StoreLocation::File(file), WriterConn::File(conn)) = (&self.home, &mut writer.conn)
        {
            file.tidy(conn).await;
        }
        Ok(())
    }

    async fn close(&self) -> Result<(), StoreError> {
        self.stop_keeping();
        match &self.home {
            StoreLocation::File(file) => file.readers.close().await,
            StoreLocation::Server(server) => server.close().await,
        }
        let Some(writer) = self.writer.lock().await.take() else {
            return Ok(());
        };
        let closed = match (&self.home, writer.conn) {
            (StoreLocation::File(file), WriterConn::File(conn)) => file.close(conn).await,
            (StoreLocation::Server(server), WriterConn::Server(Ok(link), _)) => {
                let closed = timeout(server.max_wait(), link.conn.close()).await;
                closed.unwrap_or_else(|_late| Err(silent(server.max_wait())))
            }
            _ => Ok(()),
        };
        closed.map_err(|error| self.failed(error))
    }
}
