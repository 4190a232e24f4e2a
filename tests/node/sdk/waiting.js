// Checks whose actions the server does not have yet; one that passes does not belong here.
'use strict';

module.exports = [
  'passwords: a changed password is the only one',
  'passwords: the session goes on after a change of password',
  'passwords: a change of password needs the old one',
  'passwords: a change of password needs a new one',
  'passwords: an administrator sets a password, by user and by id',
  'passwords: setting a password of others needs the master key',
  'passwords: a disabled user cannot log in and is told why and until when',
  'passwords: a disabled user cannot go on',
  'passwords: an enabled user is back',
  'passwords: a time that is over disables nobody',
  'passwords: disabling needs an administrator',
  'providers: the first login by a provider makes a user, the next finds it',
  'providers: who a provider does not know is refused',
  'coverage: every public function was called',
];
