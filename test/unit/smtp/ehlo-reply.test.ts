/** The rewriting of replies to EHLO. */

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { createEhloReplyRewriter } from '../../../lib/smtp/ehlo-reply.ts';
import type { ReplyLine } from '../../../lib/smtp/reply.ts';

/** Rewrites replies of these texts with one rewriter; gives the lines of each, and how often it reported STARTTLS. */
function rewrite(replies: string[][], authAllowed = false) {
  let reports = 0;
  const rewriteLine = createEhloReplyRewriter({ authAllowed, starttlsOffered: () => reports++ });
  const lines = replies.map((texts) =>
    texts
      .flatMap((text, index) =>
        rewriteLine({ code: 250, last: index === texts.length - 1, text }, index === 0),
      )
      .map((line: ReplyLine) => `${line.code}${line.last ? ' ' : '-'}${line.text}`),
  );
  return { lines, reports };
}

describe('createEhloReplyRewriter', () => {
  it('adds STARTTLS as the last line', () => {
    assert.deepEqual(rewrite([['host', 'SIZE 1000', '8BITMIME']]).lines, [
      ['250-host', '250-SIZE 1000', '250-8BITMIME', '250 STARTTLS'],
    ]);
  });

  it('adds STARTTLS to a reply of one line', () => {
    assert.deepEqual(rewrite([['host']]).lines, [['250-host', '250 STARTTLS']]);
  });

  it('removes the STARTTLS of smtpd and reports it once', () => {
    const reply = ['host', 'starttls', 'SIZE', 'STARTTLS'];
    const { lines, reports } = rewrite([reply, reply]);
    assert.deepEqual(lines, [
      ['250-host', '250-SIZE', '250 STARTTLS'],
      ['250-host', '250-SIZE', '250 STARTTLS'],
    ]);
    assert.equal(reports, 1);
  });

  it('keeps AUTH only where it is allowed', () => {
    const reply = ['host', 'AUTH PLAIN', 'auth=login'];
    assert.deepEqual(rewrite([reply], false).lines, [['250-host', '250 STARTTLS']]);
    assert.deepEqual(rewrite([reply], true).lines, [
      ['250-host', '250-AUTH PLAIN', '250-auth=login', '250 STARTTLS'],
    ]);
  });

  it('keeps a first line that looks like an extension', () => {
    for (const text of ['STARTTLS', 'AUTH PLAIN']) {
      const { lines, reports } = rewrite([[text, 'SIZE']]);
      assert.deepEqual(lines, [[`250-${text}`, '250-SIZE', '250 STARTTLS']]);
      assert.equal(reports, 0);
    }
  });
});
