import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { until } from './processes.ts';
import { assertContent } from './real-chain.ts';

/**
 * A command that runs exim as an smtpd, which delivers all mail to one file. TLS is not exim's business here.
 *
 * @param folder for all to read and write.
 */
export function eximIn(folder: string): string[] {
  const configuration = join(folder, 'exim.conf');
  writeFileSync(configuration, configurationFor(folder));
  return ['exim4', '-C', configuration, '-odf', '-bs'];
}

function configurationFor(folder: string): string {
  return `
primary_hostname = mail.example.org
spool_directory = ${folder}/spool
log_file_path = ${folder}/%slog
tls_advertise_hosts =
acl_smtp_rcpt = accept
keep_environment =
deliver_drop_privilege
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
