/** URLs of servers that are reached by ssh. */

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { parseSshUrl } from '../../../../lib/smtpd/relay/ssh-url.ts';

const SENDMAIL = { type: 'run', command: 'sendmail -bs' };

describe('parseSshUrl', () => {
  for (const [url, expected] of [
    ['ssh://mx.example', { host: 'mx.example', user: undefined, port: undefined, action: SENDMAIL }],
    ['SSH://mx.example/', { host: 'mx.example', user: undefined, port: undefined, action: SENDMAIL }],
    ['ssh://me@mx.example:2222', { host: 'mx.example', user: 'me', port: 2222, action: SENDMAIL }],
    ['ssh://[2001:db8::1]:22', { host: '2001:db8::1', user: undefined, port: 22, action: SENDMAIL }],
    [
      'ssh://mx/%2Fusr%2Fsbin%2Fexim4%20-bs',
      {
        host: 'mx',
        user: undefined,
        port: undefined,
        action: { type: 'run', command: '/usr/sbin/exim4 -bs' },
      },
    ],
    [
      'ssh://mx//usr/sbin/sendmail%20-bs',
      {
        host: 'mx',
        user: undefined,
        port: undefined,
        action: { type: 'run', command: '/usr/sbin/sendmail -bs' },
      },
    ],
    [
      'ssh://mx?connect=localhost:25',
      { host: 'mx', user: undefined, port: undefined, action: { type: 'connect', address: 'localhost:25' } },
    ],
    [
      'ssh://mx/?connect=[::1]:25',
      { host: 'mx', user: undefined, port: undefined, action: { type: 'connect', address: '[::1]:25' } },
    ],
  ] as const) {
    it(`parses ${url}`, () => {
      assert.deepEqual(parseSshUrl(url), expected);
    });
  }

  for (const [url, message] of [
    ['ssh://', /expected ssh:\/\//],
    ['ssh:mx.example', /expected ssh:\/\//],
    ['ssh://-oProxyCommand=x', /expected ssh:\/\//],
    ['ssh://a b', /expected ssh:\/\//],
    ['ssh://mx:70000', /expected a port from 1 to 65535/],
    ['ssh://mx:0', /expected a port from 1 to 65535/],
    ['ssh://mx:smtp', /expected ssh:\/\//],
    ['ssh://-l@mx', /invalid user "-l" in/],
    ['ssh://%2doops@mx', /invalid user "-oops" in/],
    ['ssh://me:secret@mx', /must not contain a password/],
    ['ssh://mx/%0aid', /control character/],
    ['ssh://mx/%zz', /malformed %XX/],
    ['ssh://mx?connect=', /expected \?connect=HOST:PORT/],
    ['ssh://mx?conect=a:25', /expected \?connect=HOST:PORT/],
    ['ssh://mx?connect=a', /expected HOST:PORT/],
    ['ssh://mx/sendmail?connect=a:25', /contradict each other/],
    ['ssh://mx#x', /expected ssh:\/\//],
    ['ssh://mx/-oProxyCommand=x', /expected a command after the host/],
    ['ssh://mx$(id)', /expected ssh:\/\//],
    ['ssh://mx`id`', /expected ssh:\/\//],
    ['ssh://mx\\', /expected ssh:\/\//],
    ['ssh://mx\x1b[2J', /expected ssh:\/\//],
    ['ssh://me;id@mx', /invalid user "me;id" in/],
    ['ssh://me%3asecret@mx', /must not contain a password/],
  ] as const) {
    it(`refuses ${JSON.stringify(url)}`, () => {
      assert.throws(() => parseSshUrl(url), message);
    });
  }

  for (const url of [
    'ssh://me:secret@mx',
    'ssh://me:secret@',
    'ssh://me:secret@m x',
    'ssh://me:half/secret@mx',
    'ssh://me:half?secret@mx',
    'ssh://me?connect=x:secret@mx:25',
    'ssh://me:secret%40mx',
    'ssh:me:secret@mx',
  ]) {
    it(`does not repeat the password in ${url}`, () => {
      assert.throws(
        () => parseSshUrl(url),
        (error) => error instanceof Error && !error.message.includes('secret'),
      );
    });
  }
});
