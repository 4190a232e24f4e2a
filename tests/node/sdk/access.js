// Who may read and write: access lists, their defaults, creation, fields.
'use strict';

const assert = require('node:assert/strict');
const { Group, once, refused } = require('./harness');
const { administrator, application, person, query, record, skygear, unique } = require('./world');

const group = new Group('access');
const { ACL, ErrorCodes, Role } = skygear;

const people = once(async () => {
  const [ada, ben, eve] = await Promise.all(['ada', 'ben', 'eve'].map((name) => person(name)));
  const editor = Role.define(unique('editor'));
  await administrator().auth.assignUserRole([eve.auth.currentUser], [editor]);
  return { ada, ben, eve, editor, nobody: application() };
});

const Paper = skygear.Record.extend('access_paper');

/** Saves one of Ada's papers and returns who can read it and who can write it. */
async function rights(change) {
  const { ada, ben, eve, nobody } = await people();
  const paper = new Paper({ text: 'original' });
  change(paper, await people());
  await ada.publicDB.save(paper);
  const readers = [];
  const writers = [];
  for (const [name, app] of Object.entries({ ada, ben, eve, nobody })) {
    const question = new skygear.Query(Paper).equalTo('_id', paper._id);
    if ((await app.publicDB.query(question)).length === 1) readers.push(name);
    const copy = new Paper({ _id: paper.id, text: name });
    const outcome = await app.publicDB.save(copy).then(() => 'saved', (error) => error);
    if (outcome === 'saved') writers.push(name);
    else assert.ok([101, 102].includes((outcome.error || outcome).code), JSON.stringify(outcome));
  }
  return { readers: readers.join(' '), writers: writers.join(' ') };
}

const ALL = 'ada ben eve';
const user = (app) => app.auth.currentUser;

// Name, the change, who can read, who can write.
const CASES = [
  ['no list: everybody', () => {}, `${ALL} nobody`, ALL],
  ['public read only', (p) => p.setPublicReadOnly(), `${ALL} nobody`, 'ada'],
  ['public no access', (p) => p.setPublicNoAccess(), 'ada', 'ada'],
  ['public read and write', (p) => p.setPublicReadWriteAccess(), `${ALL} nobody`, ALL],
  [
    'a user reads',
    (p, { ben }) => {
      p.setPublicNoAccess();
      p.setReadOnlyForUser(user(ben));
    },
    'ada ben',
    'ada',
  ],
  [
    'a user writes',
    (p, { ben }) => {
      p.setPublicReadOnly();
      p.setReadWriteAccessForUser(user(ben));
    },
    `${ALL} nobody`,
    'ada ben',
  ],
  [
    'a user’s right is taken back',
    (p, { ben }) => {
      p.setPublicNoAccess();
      p.setReadWriteAccessForUser(user(ben));
      p.setNoAccessForUser(user(ben));
    },
    'ada',
    'ada',
  ],
  [
    'a role reads',
    (p, { editor }) => {
      p.setPublicNoAccess();
      p.setReadOnlyForRole(editor);
    },
    'ada eve',
    'ada',
  ],
  [
    'a role writes',
    (p, { editor }) => {
      p.setPublicReadOnly();
      p.setReadWriteAccessForRole(editor);
    },
    `${ALL} nobody`,
    'ada eve',
  ],
  [
    'a role’s right is taken back',
    (p, { editor }) => {
      p.setPublicNoAccess();
      p.setReadWriteAccessForRole(editor);
      p.setNoAccessForRole(editor);
    },
    'ada',
    'ada',
  ],
];

for (const [name, change, readers, writers] of CASES) {
  group.check(name, async () => {
    assert.deepEqual(await rights(change), { readers, writers });
  });
}

group.check('a list comes back as it was given', async () => {
  const { ada, ben, eve, editor } = await people();
  const paper = new Paper({ text: 'listed' });
  paper.setPublicNoAccess();
  paper.setReadOnlyForRole(editor);
  paper.setReadWriteAccessForUser(user(ben));
  await ada.publicDB.save(paper);
  const { access } = await ben.publicDB.getRecordByID(paper.id);
  assert.deepEqual(access.toJSON(), [
    { role: editor.name, level: 'read' },
    { user_id: user(ben)._id, level: 'write' },
  ]);
  assert.equal(access.hasPublicReadAccess(), false);
  assert.equal(access.hasReadAccessForRole(editor), true);
  assert.equal(access.hasWriteAccessForRole(editor), false);
  assert.equal(access.hasWriteAccessForUser(user(ben)), true);
  assert.equal(access.hasReadAccess(user(eve), [editor]), true);
  assert.equal(access.hasWriteAccess(user(eve), [editor]), false);
});

group.check('a list is given as a whole', async () => {
  const { ada, ben } = await people();
  const list = new ACL([{ user_id: user(ben)._id, level: 'read' }]);
  const paper = new Paper({ text: 'for ben' });
  paper.setAccess(list);
  await ada.publicDB.save(paper);
  assert.deepEqual(paper.access.toJSON(), list.toJSON());
  const seen = await ben.publicDB.getRecordByID(paper.id);
  assert.deepEqual(seen.access.toJSON(), list.toJSON());
});

group.check('a list survives a save by someone who does not send it', async () => {
  const { ada, ben } = await people();
  const paper = new Paper({ text: 'kept' });
  paper.setPublicReadOnly();
  paper.setReadWriteAccessForUser(user(ben));
  await ada.publicDB.save(paper);
  const saved = await ben.publicDB.save(new Paper({ _id: paper.id, text: 'by ben' }));
  assert.equal(saved.ownerID, user(ada)._id);
  assert.equal(saved.updatedBy, user(ben)._id);
  assert.equal(saved.access.hasWriteAccessForUser(user(ben)), true);
  assert.equal(saved.access.hasPublicWriteAccess(), false);
});

group.check('what cannot be written cannot be deleted', async () => {
  const { ada, ben } = await people();
  const paper = new Paper({ text: 'stays' });
  paper.setPublicReadOnly();
  await ada.publicDB.save(paper);
  await refused(ErrorCodes.PermissionDenied, ben.publicDB.delete(paper));
});

group.check('new records have the default list of their type', async () => {
  const { ada, ben } = await people();
  const Memo = skygear.Record.extend('access_memo');
  const list = new ACL();
  list.setPublicNoAccess();
  const answer = await ada.publicDB.setRecordDefaultAccess(Memo, list);
  assert.equal(answer.type, 'access_memo');
  const memo = await ada.publicDB.save(new Memo({ text: 'mine' }));
  assert.equal(memo.access.hasPublicReadAccess(), false);
  await assert.rejects(ben.publicDB.getRecordByID(memo.id), /does not exist/);
  const open = new Memo({ text: 'ours' });
  open.setPublicReadOnly();
  await ada.publicDB.save(open);
  assert.equal((await ben.publicDB.getRecordByID(open.id)).text, 'ours');
});

group.check('a default list with entries', async () => {
  const { ada, eve, ben, editor } = await people();
  const Draft = skygear.Record.extend('access_draft');
  const list = new ACL();
  list.setPublicNoAccess();
  list.setReadWriteAccessForRole(editor);
  const answer = await ada.publicDB.setRecordDefaultAccess(Draft, list);
  assert.deepEqual(answer.default_access, [{ role: editor.name, level: 'write' }]);
  const draft = await ada.publicDB.save(new Draft({ text: 'v1' }));
  await eve.publicDB.save(new Draft({ _id: draft.id, text: 'v2' }));
  await refused(
    ErrorCodes.PermissionDenied,
    ben.publicDB.save(new Draft({ _id: draft.id, text: 'v3' })),
  );
});

group.check('only roles create a type that is kept to them', async () => {
  const { ada, eve, editor } = await people();
  const Notice = skygear.Record.extend('access_notice');
  const answer = await ada.publicDB.setRecordCreateAccess(Notice, [editor]);
  assert.deepEqual(answer, { type: 'access_notice', create_roles: [editor.name] });
  const error = await refused(
    ErrorCodes.PermissionDenied,
    ada.publicDB.save(new Notice({ text: 'no' })),
  );
  assert.match(error.message, /create/);
  const notice = await eve.publicDB.save(new Notice({ text: 'yes' }));
  // Changing needs a different right than creating.
  await ada.publicDB.save(new Notice({ _id: notice.id, text: 'changed' }));
  await ada.publicDB.setRecordCreateAccess(Notice, []);
  await ada.publicDB.save(new Notice({ text: 'everybody again' }));
});

group.check('the SDK’s own default list stays in the application', async () => {
  const { ada } = await people();
  const before = ada.publicDB.defaultACL;
  const list = new ACL();
  ada.publicDB.setDefaultACL(list);
  assert.equal(ada.publicDB.defaultACL, list);
  ada.publicDB.setDefaultACL(before);
});

group.check('names and addresses are for users, and only their owner’s to change', async () => {
  const { ada, ben, nobody } = await people();
  const known = await ben.publicDB.getRecordByID(user(ada).id);
  assert.equal(known.username, user(ada).username);
  assert.ok(!('username' in (await nobody.publicDB.getRecordByID(user(ada).id))));
  known.username = unique('impostor');
  await ben.publicDB.save(known);
  assert.equal((await ada.auth.whoami()).username, user(ada).username);
});

/** Replaces the rules for fields while a function runs. */
async function withFieldRules(rules, work) {
  const admin = administrator();
  const { result } = await admin.makeRequest('schema:field_access:get', {});
  const update = (access) => admin.makeRequest('schema:field_access:update', { access });
  await update([...result.access, ...rules]);
  try {
    return await work();
  } finally {
    await update(result.access);
  }
}

const rule = (field, role, flags) => ({
  record_type: 'access_form',
  record_field: field,
  user_role: role,
  readable: flags.includes('r'),
  writable: flags.includes('w'),
  comparable: flags.includes('c'),
  discoverable: flags.includes('d'),
});

group.check('fields are read, written, and asked for by those who may', async () => {
  const { ada, ben } = await people();
  const Form = skygear.Record.extend('access_form');
  const rules = [
    rule('grade', '_owner', 'rwcd'),
    rule('grade', '_any_user', ''),
    rule('code', '_public', 'rwd'),
  ];
  await withFieldRules(rules, async () => {
    const form = await ada.publicDB.save(new Form({ grade: 'A', code: 'x', text: 't' }));
    assert.equal(form.grade, 'A');
    const seen = await ben.publicDB.getRecordByID(form.id);
    assert.equal(seen.text, 't');
    assert.ok(!('grade' in seen));
    await ben.publicDB.save(new Form({ _id: form.id, grade: 'F', text: 'by ben' }));
    const after = await ada.publicDB.getRecordByID(form.id);
    assert.deepEqual([after.grade, after.text], ['A', 'by ben']);
    const ask = (change) => ben.publicDB.query(change(query('access_form')));
    await refused(ErrorCodes.RecordQueryDenied, ask((q) => q.equalTo('grade', 'A')));
    assert.equal((await ask((q) => q.equalTo('code', 'x'))).length, 1);
    await refused(ErrorCodes.RecordQueryDenied, ask((q) => q.greaterThan('code', 'a')));
    await refused(ErrorCodes.RecordQueryDenied, ask((q) => q.addAscending('code')));
  });
});

group.check('an atomic save names the field that may not be written', async () => {
  const { ada, ben } = await people();
  const Form = skygear.Record.extend('access_form');
  const rules = [rule('grade', '_owner', 'rwcd'), rule('grade', '_any_user', 'r')];
  await withFieldRules(rules, async () => {
    const form = await ada.publicDB.save(new Form({ grade: 'B' }));
    const save = ben.publicDB.save(new Form({ _id: form.id, grade: 'F' }), { atomic: true });
    const error = await refused(ErrorCodes.AtomicOperationFailure, save);
    assert.equal(error.info[form.id].code, ErrorCodes.DeniedArgument);
    assert.deepEqual(error.info[form.id].info.arguments, ['grade']);
  });
});

group.check('the rules for fields are for administrators', async () => {
  const { ben } = await people();
  await refused(ErrorCodes.PermissionDenied, ben.makeRequest('schema:field_access:get', {}));
});

group.check('the master key reads and writes everything', async () => {
  const { ada } = await people();
  const secret = record('access_paper', { text: 'secret' });
  secret.setPublicNoAccess();
  await ada.publicDB.save(secret);
  const admin = administrator();
  const seen = await admin.publicDB.getRecordByID(secret.id);
  seen.text = 'read by an administrator';
  const saved = await admin.publicDB.save(seen);
  assert.equal(saved.ownerID, user(ada)._id);
  assert.equal(saved.access.hasPublicReadAccess(), false);
});

module.exports = group;
