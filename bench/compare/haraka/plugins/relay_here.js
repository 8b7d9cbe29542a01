'use strict';
// Whoever connects may relay (only this machine can), everything goes to the queue on disk, and hop.test has a smart host
// [Haraka's page Outbound, "the get_mx hook"]. Other domains: by MX.

exports.register = function () {
  this.register_hook('connect', 'may_relay');
  this.register_hook('rcpt', 'take');
  this.register_hook('get_mx', 'smart_host');
};

exports.may_relay = function (next, connection) {
  connection.relaying = true;
  next();
};

exports.take = function (next) {
  next(OK);
};

exports.smart_host = function (next, hmail, domain) {
  if (domain !== 'hop.test') return next();
  next(OK, { priority: 0, exchange: '198.18.0.1', port: 25 });
};
