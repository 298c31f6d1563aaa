/** URLs of servers to pass mail on to. */

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { formatServerAddress } from '../../../../lib/net/host-port.ts';
import { Failure } from '../../../../lib/program/failure.ts';
import { parseRelayUrl } from '../../../../lib/smtpd/relay/url.ts';

/** The URL, and what is tried, in order. */
const VALID: readonly [string, ...string[]][] = [
  [
    'smtp+tls://mail.example',
    'smtp mail.example:25 if-offered',
    'smtp mail.example:25 never after handshake-failed',
  ],
  ['smtp://mail.example', 'smtp mail.example:25 never'],
  ['tls://mail.example', 'smtp mail.example:25 required verified'],
  ['smtps://mail.example', 'smtp mail.example:465 implicit verified'],
  [
    'ssl://mail.example',
    'smtp mail.example:25 required verified',
    'smtp mail.example:465 implicit verified after no-tls',
  ],
  ['lmtp://mail.example', 'lmtp mail.example:24 never'],
  ['SMTPS://mail.example/', 'smtp mail.example:465 implicit verified'],
  ['tls://mail.example:submission', 'smtp mail.example:587 required verified'],
  ['tls://[::1]', 'smtp [::1]:25 required verified'],
  ['tls://[fe80::1%eth0]:587', 'smtp [fe80::1%eth0]:587 required verified'],
  ['tls://[fe80::1%40]', 'smtp [fe80::1%40]:25 required verified'],
  ['smtp://192.0.2.1:2525', 'smtp 192.0.2.1:2525 never'],
  [
    'smtp+tls://mail.example:2525',
    'smtp mail.example:2525 if-offered',
    'smtp mail.example:2525 never after handshake-failed',
  ],
  [
    'ssl://mail.example:587',
    'smtp mail.example:587 required verified',
    'smtp mail.example:465 implicit verified after no-tls',
  ],
  [
    'ssl://mail.example:587,4650',
    'smtp mail.example:587 required verified',
    'smtp mail.example:4650 implicit verified after no-tls',
  ],
  ['smtp+unix:/run/smtpd.sock', 'smtp unix:/run/smtpd.sock never'],
  ['lmtp+unix:/run/a@b', 'lmtp unix:/run/a@b never'],
  [
    'ssl+unix:/run/s',
    'smtp unix:/run/s required verified',
    'smtp unix:/run/s implicit verified after no-tls',
  ],
];

const INVALID: readonly [string, RegExp][] = [
  ['', /expected a URL such as tls:\/\/mail\.example, not ""/],
  ['mail.example', /expected a URL such as tls:\/\/mail\.example, not "mail\.example"/],
  ['http://mail.example', /unknown scheme "http" in a URL, expected one of smtp\+tls, smtp, tls/],
  ['constructor://mail.example', /unknown scheme "constructor"/],
  ['smtp:mail.example', /expected "\/\/" and a host after the scheme in "smtp:mail\.example"/],
  ['smtp://0', /expected HOST or HOST:PORT after the scheme/],
  ['smtp://', /expected HOST or HOST:PORT after the scheme/],
  ['smtp://:25', /expected HOST or HOST:PORT after the scheme/],
  ['smtp://mail.example:', /expected HOST or HOST:PORT after the scheme/],
  ['smtp://mail.example:0', /expected HOST or HOST:PORT after the scheme/],
  ['smtp://mail.example:65536', /expected HOST or HOST:PORT after the scheme/],
  ['smtp://mail.example:25,465', /too many ports in/],
  ['smtp+tls://mail.example:25,26', /too many ports in/],
  ['ssl://mail.example:1,2,3', /too many ports in/],
  ['smtp://::1', /expected/],
  ['smtp://[::1', /expected/],
  ['smtp://mail example', /expected HOST or HOST:PORT after the scheme/],
  ['smtp://mail.example/path', /unexpected "\/path" after the host/],
  ['smtp://mail.example?tls=no', /unexpected "\?tls=no" after the host/],
  ['smtp://192.0.2.256', /expected HOST or HOST:PORT after the scheme/],
  ['smtp+unix:smtpd.sock', /expected an absolute path after "\+unix:"/],
  [`smtp+unix:/${'x'.repeat(107)}`, /a path of 1 to 107 octets/],
  ['unix:/run/smtpd.sock', /unknown scheme "unix"/],
  ['backup:mx2.example', /expected "\/\/" and a host after the scheme/],
  ['backup://', /expected HOST or HOST:PORT after the scheme/],
  ['backup://192.0.2.1', /expected the name of this MX host in "backup:\/\/192\.0\.2\.1"/],
  ['backup://[2001:db8::1]', /expected the name of this MX host/],
  ['backup://0', /expected HOST or HOST:PORT after the scheme/],
  ['backup://mx2.example:25,26', /too many ports in/],
  ['backup://mx2.example:0', /expected HOST or HOST:PORT after the scheme/],
  ['backup://mx2.example/path', /unexpected "\/path" after the host/],
  ['backup+unix:/run/s', /unknown scheme "backup\+unix"/],
];

/** The URL, the name and the port of a backup MX. */
const BACKUP: readonly [string, string, number][] = [
  ['backup://mx2.example', 'mx2.example', 25],
  ['BACKUP://MX2.Example./', 'mx2.example', 25],
  ['backup://mx2.example:2525', 'mx2.example', 2525],
  ['backup://mx2', 'mx2', 25],
];

/** Whatever is wrong with them, the message does not contain the password. */
const SECRET = [
  'smtps://alice:wonderland@mail.example',
  'smtps://alice:wonderland@mail.example/path',
  'smtps:alice:wonderland@mail.example',
  'alice.b:wonderland@mail.example',
  'smtps://mail.example/@wonderland',
  'backup://alice:wonderland@mail.example',
  'smtps://alice:wonderland%40mail.example',
  'tls+unix:alice:wonderland@mail.example',
  'ssh://alice:wonder/wonderland@mail.example',
];

describe('the URL of a server', () => {
  for (const [url, ...ways] of VALID) {
    it(`may be ${url}`, () => {
      const target = parseRelayUrl(url);
      const found = target.ways.map((way) => {
        assert.ok('address' in way);
        const { address, tls, mustVerify, after } = way;
        return [
          target.protocol,
          formatServerAddress(address),
          tls,
          mustVerify && 'verified',
          after && `after ${after}`,
        ]
          .filter((part) => typeof part === 'string')
          .join(' ');
      });
      assert.deepEqual(found, ways);
    });
  }

  for (const [url, backup, port] of BACKUP) {
    it(`may be ${url}`, () => {
      const { host, protocol, ways } = parseRelayUrl(url);
      assert.deepEqual(
        { host, protocol, ways },
        { host: undefined, protocol: 'smtp', ways: [{ backup, port }] },
      );
    });
  }

  for (const [url, fault] of INVALID) {
    it(`may not be ${url.slice(0, 40)}`, () => {
      assert.throws(() => parseRelayUrl(url), { status: 100, message: fault });
    });
  }

  for (const url of SECRET) {
    it(`is not repeated in a message: ${url}`, () => {
      assert.throws(
        () => parseRelayUrl(url),
        (error) => error instanceof Failure && error.status === 100 && !error.message.includes('wonderland'),
      );
    });
  }

  it('has a host to verify, without brackets; a Unix socket has none', () => {
    const hosts = ['tls://[::1]:25', 'ssl://Mail.example', 'tls+unix:/s'].map(
      (url) => parseRelayUrl(url).host,
    );
    assert.deepEqual(hosts, ['::1', 'Mail.example', undefined]);
  });
});
