/** The smtpd commands that are refused at the start, by all programs that run an smtpd on pipes. */

import assert from 'node:assert/strict';
import { describe, it } from 'node:test';
import { Failure } from '../../../lib/program/failure.ts';
import { checkSmtpdCommand } from '../../../lib/smtpd/command.ts';
import { ours } from '../../support/programs.ts';
import { run } from '../../support/real.ts';

describe('an smtpd that treats clients on pipes as local users', { concurrency: 3 }, () => {
  for (const command of [
    'exim -bs',
    'exim4 -bs',
    'exim4 -C /etc/exim4/other.conf -odf -bs',
    '/usr/sbin/exim4 -bs -odf',
    './exim -bs',
    'exim-4.96-1 -bs',
    'sendmail -bs',
    'sendmail.postfix -bs',
    '/usr/lib/sendmail -bs -oMs client.example',
    'sendmail -bs -oMaa user',
  ]) {
    it(`is refused: ${command}`, () => {
      assert.throws(
        () => checkSmtpdCommand(command.split(' '), 'smtpd-starttls-server'),
        (error) =>
          error instanceof Failure &&
          error.status === 100 &&
          /^usage error: \S+ -bs without -oMa .* see "What smtpd must know" in smtpd-starttls-server\(8\)$/.test(
            error.message,
          ),
      );
    });
  }

  for (const command of [
    'exim4 -bs -oMa 192.0.2.1.4000',
    'sendmail -oMa 192.0.2.1 -bs',
    'exim4 -bS',
    'exim4 --version',
    'not-exim -bs',
    'exim4-wrapper -bs',
    'qmail-smtpd -bs',
    'sh -c exim4 -bs',
  ]) {
    it(`is not: ${command}`, () => checkSmtpdCommand(command.split(' '), 'smtpd-starttls-server'));
  }

  for (const [name, ...words] of [
    ['smtpd-starttls-proxy-io'],
    ['smtpd-starttls-proxy'],
    ['smtpd-starttls-server', '127.0.0.1', '0'],
  ] as const) {
    it(`is refused by ${name} with 100 and one line`, async () => {
      const { status, stdout, stderr } = await run([ours(name), ...words, 'exim4', '-bs']);
      assert.equal(
        stderr,
        `${name}: fatal: usage error: exim4 -bs without -oMa treats every client as a local user, an open relay; ` +
          `see "What smtpd must know" in ${name}(8)\n`,
      );
      assert.deepEqual([status, stdout], [100, '']);
    });
  }
});
