/*
 * A plugin that changes records by SQL, through the pool of the published runtime (npm `skygear` 1.7.2).
 */
'use strict';

const skygearCloud = require('skygear/cloud');

function query(text, values) {
  return new Promise((resolve, reject) => {
    skygearCloud.poolConnect((error, client, done) => {
      if (error) {
        reject(error);
        return;
      }
      client.query(text, values, (failed, result) => {
        done();
        if (failed) {
          reject(failed);
        } else {
          resolve(result.rows);
        }
      });
    });
  });
}

skygearCloud.op('sql:count', (param) => {
  const [id, by] = param.args;
  return query(
    'UPDATE note SET n = n + $2, _updated_at = NOW() WHERE _id = $1 RETURNING n', [id, by]
  );
}, {keyRequired: false, userRequired: false});
