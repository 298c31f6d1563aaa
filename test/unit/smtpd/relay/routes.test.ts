/** Files of routes. */

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Failure } from '../../../../lib/program/failure.ts';
import { parseRoutes, type RouteOf } from '../../../../lib/smtpd/relay/routes.ts';
import { mutate } from '../../../fuzz/input.ts';
import { createRandom } from '../../../fuzz/random.ts';

const FILE = `
# by sender
alice@example.org        tls://alice.example
"two words"@example.org  tls://quoted.example
Bob@Example.Org          tls://bob.example
@example.org             smtps://domain.example
@*.example.org           tls://below.example
@*.deep.example.org      tls://deep.example
@[192.0.2.1]             tls://literal.example
<>                       smtp://null.example
*                        |/usr/sbin/sendmail -bs

to carol@example.net     lmtp+unix:/run/lmtp
To @example.net          ssh://mx.example.net
FROM dave@example.net    tls://dave.example
`;

describe('parseRoutes', () => {
  const routes = parseRoutes(FILE, 'routes');
  const find = (of: RouteOf, mailbox: string): string | undefined => {
    const target = routes.find(of, mailbox)?.target;
    return target?.type === 'program' ? `|${target.command.join(' ')}` : target?.url;
  };

  for (const [of, mailbox, expected] of [
    ['from', 'alice@example.org', 'tls://alice.example'],
    ['from', '"alice"@example.org', 'tls://alice.example'],
    ['from', 'alice@EXAMPLE.org', 'tls://alice.example'],
    ['from', 'ALICE@example.org', 'tls://alice.example'],
    ['from', 'bob@example.org', 'tls://bob.example'],
    ['from', '"two words"@example.org', 'tls://quoted.example'],
    ['from', 'zoe@example.org', 'smtps://domain.example'],
    ['from', 'zoe@a.example.org', 'tls://below.example'],
    ['from', 'zoe@a.b.example.org', 'tls://below.example'],
    ['from', 'zoe@a.deep.example.org', 'tls://deep.example'],
    ['from', 'zoe@deep.example.org', 'tls://below.example'],
    ['from', 'zoe@notexample.org', '|/usr/sbin/sendmail -bs'],
    ['from', 'zoe@[192.0.2.1]', 'tls://literal.example'],
    ['from', 'zoe@[192.0.2.2]', '|/usr/sbin/sendmail -bs'],
    ['from', '"a@example.org"@elsewhere.example', '|/usr/sbin/sendmail -bs'],
    ['from', '', 'smtp://null.example'],
    ['from', 'postmaster', '|/usr/sbin/sendmail -bs'],
    ['from', 'dave@example.net', 'tls://dave.example'],
    ['to', 'carol@example.net', 'lmtp+unix:/run/lmtp'],
    ['to', 'dave@example.net', 'ssh://mx.example.net'],
    ['to', 'alice@example.org', undefined],
  ] as const) {
    it(`finds the route ${of} ${mailbox === '' ? '<>' : mailbox}`, () => {
      assert.equal(find(of, mailbox), expected);
    });
  }

  it('prefers the local part in its own case, whatever the order', () => {
    const two = parseRoutes('BOB@a tls://upper\nbob@a tls://lower\n', 'routes');
    assert.deepEqual(
      ['bob@a', 'BOB@a', 'Bob@a'].map((mailbox) => two.find('from', mailbox)?.line),
      [2, 1, 1],
    );
  });

  it('has no route for what no pattern matches', () => {
    const one = parseRoutes('@example.org tls://a\r\n', 'routes');
    assert.deepEqual([one.find('from', ''), one.find('from', 'a@b')], [undefined, undefined]);
    assert.deepEqual([one.hasRecipients, routes.hasRecipients], [false, true]);
  });

  for (const [text, message] of [
    ['alice@example.org', /^routes:1: expected a pattern, and a URL or \|program$/],
    ['\nalice tls://a', /^routes:2: expected user@domain, .* not "alice"$/],
    ['@*example.org tls://a', /^routes:1: expected user@domain, /],
    ['a@b@c tls://a', /^routes:1: expected user@domain, /],
    ['to <> tls://a', /^routes:1: <> is a sender only$/],
    ['* tls://a b', /^routes:1: unexpected text after the URL$/],
    ['* |', /^routes:1: expected a program after \|$/],
    ['@A tls://a\n# again\n@a tls://b', /^routes:3: @a has a route already, in line 1$/],
  ] as const) {
    it(`refuses ${JSON.stringify(text)}`, () => {
      assert.throws(() => parseRoutes(text, 'routes'), { message });
    });
  }
});

describe('random files of routes', () => {
  const lines = FILE.split('\n');
  const addresses = [
    'alice@example.org',
    'x@a.deep.example.org',
    '"a b"@[::1]',
    '',
    '@',
    'x@',
    '@*',
    'a\0@b',
    '*',
  ];

  it('are read or refused with their line, and addresses are looked up in bounded time', () => {
    const counts = { read: 0, refused: 0, found: 0 };
    for (let number = 0; number < 20_000; number++) {
      const random = createRandom(7, number);
      let text = Array.from({ length: random.below(6) }, () => lines[random.below(lines.length)]).join('\n');
      for (let times = random.below(3); times > 0; times--) text = mutate(text, random);
      try {
        const routes = parseRoutes(text, 'routes');
        counts.read += 1;
        for (const address of addresses) {
          const route = routes.find(random.chance(50) ? 'from' : 'to', mutate(address, random));
          if (route === undefined) continue;
          counts.found += 1;
          assert.ok(routes.all.includes(route));
        }
      } catch (error) {
        counts.refused += 1;
        assert.ok(error instanceof Failure && error.status === 100, String(error));
        assert.match(error.message, /^routes:\d+: /);
      }
    }
    for (const [what, count] of Object.entries(counts)) assert.ok(count > 1000, `${what}: ${count}`);
    const many = parseRoutes('* tls://a', 'routes');
    assert.equal(many.find('from', `x@${'a.'.repeat(5000)}a`)?.line, 1);
  });
});
