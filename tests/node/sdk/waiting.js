// Checks whose actions the server does not have yet; one that passes does not belong here.
'use strict';

module.exports = [
  'coverage: every public function was called',
];
