/** What smtp-relay-io refuses to start with. */

import assert from 'node:assert/strict';
import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, describe, it } from 'node:test';
import { makeCertificates } from '../support/certificate.ts';
import { startRelay } from '../support/relay.ts';

const certificates = makeCertificates();
after(() => certificates.remove());
const URL = 'tls://mail.example';

function file(name: string, text: string | Uint8Array, mode = 0o600): string {
  const path = join(certificates.folder, name);
  writeFileSync(path, text);
  chmodSync(path, mode);
  return path;
}

const SECRET = 'mail.example alice wonderland\n';
const PAIR = certificates.selfSigned('a.example');
const OTHER = certificates.selfSigned('b.example');

/** What, the command line, the environment, the status and the message. */
const CASES: readonly [string, readonly string[], NodeJS.ProcessEnv, number, RegExp][] = [
  ['no URL', [], {}, 100, /usage error: missing URL/],
  ['two URLs', [URL, URL], {}, 100, /usage error: unexpected argument: tls:/],
  ['an unknown scheme', ['ftp://mail.example'], {}, 100, /usage error: unknown scheme "ftp" in a URL/],
  [
    'a password in the URL',
    ['smtps://alice:wonderland@mail.example'],
    {},
    100,
    /usage error: a URL must not contain a user/,
  ],
  [
    'a pin for ssh',
    ['--pin', 'a'.repeat(64), 'ssh://mail.example'],
    {},
    100,
    /--credentials and --pin have no effect with ssh/,
  ],
  [
    'a pin in base64',
    ['--pin', 'AAAA', URL],
    {},
    100,
    /--pin takes a SHA-256 digest of 64 hexadecimal digits, not AAAA/,
  ],
  [
    'a Unix socket that cannot be verified',
    ['ssl+unix:/run/smtpd'],
    {},
    100,
    /usage error: ssl\+unix:\/run\/smtpd requires --pin: a Unix socket has no name/,
  ],
  [
    'an unknown DNS server',
    ['--resolver', 'dns.example', URL],
    {},
    100,
    /--resolver takes an address.*, not dns\.ex/,
  ],
  [
    'a URL for routes by recipient',
    ['backup://mx2.example'],
    {},
    100,
    /usage error: backup:\/\/mx2\.example is for routes by recipient, see --routes/,
  ],
  ['an unknown PROXY protocol', ['--send-proxy', 'v3', URL], {}, 100, /--send-proxy takes v1 or v2, not v3/],
  [
    'no time for a connection',
    ['--connect-timeout', '0', URL],
    {},
    100,
    /--connect-timeout takes a whole number from 1/,
  ],
  [
    'a file that the group can read',
    ['--credentials', file('group', SECRET, 0o640), URL],
    {},
    100,
    /its mode must be 600 or stricter, not 640/,
  ],
  [
    'a file that others can write',
    ['--credentials', file('others', SECRET, 0o602), URL],
    {},
    100,
    /its mode must be 600 or stricter, not 602/,
  ],
  [
    'a file that is missing',
    ['--credentials', join(certificates.folder, 'none'), URL],
    {},
    111,
    /unable to read --credentials .*none: ENOENT/,
  ],
  ['a folder', ['--credentials', certificates.folder, URL], {}, 100, /not a regular file/],
  [
    'a line without a password',
    ['--credentials', file('short', `${SECRET}wonderland x\n`), URL],
    {},
    100,
    /short: line 2: expected "host user password"/,
  ],
  [
    'two lines of a host',
    ['--credentials', file('twice', `${SECRET}MAIL.example wonderland x\n`), URL],
    {},
    100,
    /twice: line 2: there is another line for this host/,
  ],
  [
    'a NUL in a password',
    ['--credentials', file('nul', 'mail.example wonderland x\0y\n'), URL],
    {},
    100,
    /nul: line 1: it contains a NUL/,
  ],
  [
    'a password that is not UTF-8',
    [
      '--credentials',
      file('latin1', Buffer.from('# \xe4\nmail.example alice wonderl\xe4nd\n', 'latin1')),
      URL,
    ],
    {},
    100,
    /latin1: line 2: it is not UTF-8/,
  ],
  ['a missing CAFILE', [URL], { CAFILE: '/nonexistent' }, 111, /unable to read CAFILE \/nonexistent: ENOENT/],
  [
    'a CAFILE without certificates',
    [URL],
    { CAFILE: file('empty', '') },
    100,
    /CAFILE .*empty contains no readable certificate/,
  ],
  ['CERTFILE without KEYFILE', [URL], { CERTFILE: PAIR.certFile }, 100, /KEYFILE is not set/],
  [
    'a KEYFILE of another certificate',
    [URL],
    { CERTFILE: PAIR.certFile, KEYFILE: OTHER.keyFile },
    100,
    /is not the key of CERTFILE/,
  ],
];

describe('smtp-relay-io does not start with', () => {
  for (const [what, words, environment, status, message] of CASES) {
    it(what, async (t) => {
      const relay = startRelay(t, words, environment);
      assert.equal(await relay.rest(), '');
      assert.equal(await relay.status, status);
      assert.match(relay.stderr(), message);
      assert.match(relay.stderr(), /^smtp-relay-io: fatal: [ -~]+\n$/);
      assert.doesNotMatch(relay.stderr(), /wonderland/);
    });
  }
});
