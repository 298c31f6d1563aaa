import { chownSync, existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import type { Pair } from './certificate.ts';
import { daemonFolder, startDaemon } from './daemon.ts';
import { idsOf } from './ids.ts';
import { missing } from './programs.ts';
import { closedPort } from './tcp.ts';

/** The reason to skip a test that needs Dovecot; see `missing`. */
export function noDovecot(): string | false {
  if (process.getuid?.() !== 0) return 'Dovecot starts its processes as other users, as root alone can';
  return missing('dovecot', '/usr/lib/dovecot/lmtp', '/usr/lib/dovecot/submission');
}

/** A running Dovecot. */
export interface Dovecot {
  /** Its socket for LMTP. */
  readonly lmtp: string;
  /** Its socket for servers that leave AUTH to it. */
  readonly authSocket: string;
  /** The port of its submission server, which takes mail in TLS, after AUTH, and sends it on to a port of 127.0.0.1. */
  readonly submissionPort: number;
  stderr(): string;
  /** The messages for a user of example.net, by local part. */
  mails(user: string): string[];
}

/**
 * Starts Dovecot, with all its files in a folder of its own, until the end of the test. It has mailboxes for bob, carol and
 * full at example.net; that of full takes no message. It authenticates alice with the password "wonder land".
 *
 * @param next where its submission server sends mail on to.
 */
export async function startDovecot(t: TestContext, pair: Pair, next = 0): Promise<Dovecot> {
  const folder = daemonFolder();
  const path = (...names: string[]): string => join(folder, ...names);
  const { uid, gid } = idsOf('nobody');
  mkdirSync(path('mail'));
  chownSync(path('mail'), uid, gid);
  // Name, password, user, group, comment, home, shell, more.
  const user = (name: string, password = '*', more = ''): string =>
    `${name}:${password}::::${path('mail', name)}::${more}\n`;
  writeFileSync(
    path('users'),
    [
      user('alice', '{PLAIN}wonder land'),
      ...[user('bob@example.net'), user('carol@example.net')],
      // No folder can be made below a device.
      user('full@example.net', '*', 'userdb_mail=maildir:/dev/null/x'),
    ].join(''),
  );
  const submissionPort = await closedPort();
  writeFileSync(path('conf'), configurationFor({ folder, pair, submissionPort, next }));
  const dovecot = startDaemon(t, folder, ['dovecot', '-F', '-c', path('conf')]);
  // Its sockets are open then.
  await dovecot.logs(/ starting up for /);
  return {
    lmtp: path('run/lmtp'),
    authSocket: path('run/auth-for-others'),
    submissionPort,
    stderr: dovecot.stderr,
    mails: (user) => {
      const inbox = path('mail', `${user}@example.net`, 'Maildir/new');
      return existsSync(inbox)
        ? readdirSync(inbox).map((name) => readFileSync(join(inbox, name), 'latin1'))
        : [];
    },
  };
}

interface Configuration {
  readonly folder: string;
  readonly pair: Pair;
  readonly submissionPort: number;
  readonly next: number;
}

function configurationFor({ folder, pair, submissionPort, next }: Configuration): string {
  return `
base_dir = ${folder}/run
state_dir = ${folder}/state
log_path = /dev/stderr
protocols = lmtp submission
ssl = required
ssl_cert = <${pair.certFile}
ssl_key = <${pair.keyFile}
auth_mechanisms = plain login cram-md5
mail_location = maildir:~/Maildir
mail_uid = nobody
mail_gid = nogroup
first_valid_uid = 1
hostname = mail.example.org
postmaster_address = postmaster@example.net
submission_relay_host = 127.0.0.1
submission_relay_port = ${next}
passdb {
  driver = passwd-file
  args = ${folder}/users
}
userdb {
  driver = passwd-file
  args = ${folder}/users
}
service lmtp {
  unix_listener lmtp {
    mode = 0666
  }
}
service auth {
  unix_listener auth-for-others {
    mode = 0666
  }
}
service submission-login {
  inet_listener submission {
    address = 127.0.0.1
    port = ${submissionPort}
  }
}
`;
}
