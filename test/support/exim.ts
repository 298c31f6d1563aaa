import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { until } from './processes.ts';
import { ROOT } from './programs.ts';
import { assertContent } from './real-chain.ts';

/**
 * A command that runs exim as an smtpd, by the recipe of the man pages. It takes mail for example.net, and
 * delivers it to one file. TLS is not exim's business here.
 *
 * @param folder for all to read and write.
 */
export function eximIn(folder: string): string[] {
  const configuration = join(folder, 'exim.conf');
  writeFileSync(configuration, configurationFor(folder));
  const script = join(folder, 'exim-smtpd');
  const recipe = recipeIn('smtpd-starttls-server');
  writeFileSync(script, recipe.replace('exim4 -bs', `exim4 -C ${configuration} -odf -bs`), { mode: 0o755 });
  return [script];
}

/** The script in the section "What smtpd must know" of a man page. */
export function recipeIn(page: string): string {
  const text = readFileSync(join(ROOT, `docs/man/${page}.8.md`), 'utf8');
  const [, section = ''] = /^## What smtpd must know$(.*?)^## /ms.exec(text) ?? [];
  const [block = ''] = /(?:^ {4}.*\n)+/m.exec(section) ?? [];
  const recipe = block.replaceAll(/^ {4}/gm, '');
  assert.match(recipe, /^#!\/bin\/sh\nexec exim4 -bs -oMa /);
  return recipe;
}

function configurationFor(folder: string): string {
  return `
primary_hostname = mail.example.org
spool_directory = ${folder}/spool
log_file_path = ${folder}/%slog
tls_advertise_hosts =
acl_smtp_rcpt = check_rcpt
keep_environment =
deliver_drop_privilege
begin acl
check_rcpt:
  # Debian has this too: it is for programs of this host, which are on no socket.
  accept hosts = :
  accept domains = example.net
  deny message = relay not permitted
begin routers
all:
  driver = accept
  transport = mailbox
begin transports
mailbox:
  driver = appendfile
  file = ${folder}/mailbox
`;
}

/** Waits for the message in that file. */
export async function assertInMailbox(folder: string): Promise<void> {
  const read = (): string => {
    try {
      return readFileSync(join(folder, 'mailbox'), 'latin1');
    } catch {
      return '';
    }
  };
  // exim takes the message first and delivers it then.
  await until('the message is in the mailbox', () => read().includes('Yours, Alice'));
  assertContent(read());
}
