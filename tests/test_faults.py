"""Every fault that the manual promises something about has tests, named here, and they exist."""

import re

from tests.support import REPOSITORY
from tests.test_docs import PAGES, table

FAULTS = {
    "trouble.md": {
        "a worker is killed, at any moment": [
            "test_a_worker_may_die_anywhere",
            "test_a_killed_workers_job_is_done_once_by_the_next",
            "test_a_second_death_at_the_same_job_fails_it_with_a_name_and_the_rest_runs",
        ],
        "a worker hangs": [
            "test_a_hung_worker_is_killed_and_its_job_named",
            "test_a_frozen_worker_is_killed_as_hung_and_its_job_is_made_once",
        ],
        "the web process dies": [
            "test_what_dies_comes_back_and_nothing_is_lost",
            "test_the_page_outlives_its_server_without_a_reload",
        ],
        "`serve` itself is killed": [
            "test_a_killed_supervisor_leaves_nothing_behind_and_ctrl_c_stops_the_next_one",
            "test_a_killed_supervisor_takes_its_worker_along_and_the_job_waits_for_the_next",
        ],
        "the web process no longer answers": [
            "test_a_web_process_that_does_not_answer_is_replaced_and_the_queue_goes_on"
        ],
        "a temporary fault (of the GPU's driver)": ["test_a_fault_that_passes_is_tried_again"],
        "the disk is nearly full": [
            "test_below_the_reserve_nothing_is_claimed_and_with_room_again_it_goes_on_by_itself",
            "test_the_disks_reserve_is_kept",
        ],
        "gallery or database cannot be written, or are gone, for a while (permissions, read-only, I/O errors, a full "
        "disk, too many open files, a network share that went away)": [
            "test_a_fault_of_the_disk_holds_the_queue_and_no_job_pays_for_it",
            "test_whatever_happens_to_the_storage_no_worker_dies_and_no_picture_is_made_twice",
            "test_kills_in_the_middle_of_faults_of_the_storage",
        ],
        "a network share hangs": ["test_a_share_that_hangs_holds_the_queue_and_its_worker_is_not_taken_for_hung"],
        "only one job's picture cannot be saved": [
            "test_a_fault_that_only_one_job_meets_is_tried_three_times_and_fails_by_name"
        ],
        "the gallery's folder is gone": ["test_a_gallery_that_is_gone_is_not_made_anew"],
        "the clock is wrong for a while": [
            "test_a_jump_in_the_middle_of_a_job_stops_nothing_and_nobody_counts_as_hung",
            "test_a_dead_and_a_frozen_worker_are_found_whatever_the_clock_says",
        ],
        "the database is locked, read-only or damaged": [
            "test_a_database_locked_for_longer_than_anyone_waits_loses_nothing",
            "test_a_database_that_was_read_only_at_a_workers_first_save_is_written_again",
            "test_a_damaged_page_is_found",
        ],
        "an upgrade": [
            "test_an_upgrade_backs_up_first_and_keeps_every_row",
            "test_a_database_of_a_newer_program_is_refused_and_not_touched",
        ],
        "a picture's file is deleted by hand": [
            "test_a_row_without_a_file_is_put_into_the_trash_and_comes_back_with_it",
            "test_a_picture_without_a_row_is_moved_aside_and_never_deleted",
        ],
        "anything about workers on other machines": ["test_every_fault_of_the_manual_has_tests"],
        "anything about servers of a cluster": ["test_every_fault_of_the_manual_has_tests"],
    },
    "machines.md": {
        "the other machine dies, or its network": [
            "test_jobs_of_a_killed_remote_worker_and_of_a_killed_studio_are_made_once",
            "test_an_expired_lease_frees_the_jobs_and_fences_what_is_late",
            "test_no_job_is_lost_doubled_or_left_running",
        ],
        "a worker hangs, though it still answers": [
            "test_a_worker_that_makes_no_progress_loses_its_jobs",
            "test_a_worker_that_hangs_is_told_to_end",
        ],
        "the studio is away or restarts": [
            "test_while_the_studio_is_away_a_worker_waits_and_hands_in_later",
            "test_a_restarted_worker_hands_in_what_was_finished",
            "test_a_restarted_studio_takes_it_too",
        ],
        "the worker's disk is full, or `spool_mb` of kept pictures": [
            "test_a_full_spool_is_said_and_no_further_job_is_begun",
            "test_its_problem_is_shown_with_the_machine",
            "test_it_names_a_full_spool",
        ],
        "the studio was away for longer than the lease": [
            "test_time_in_which_nobody_could_report_does_not_count",
            "test_a_worker_whose_lease_is_over_takes_its_slot_again",
        ],
        "the studio's clock jumps": ["test_a_clock_that_jumps_ends_no_lease_and_keeps_none_alive"],
        "the worker's clock is wrong": [
            "test_a_picture_gets_the_studios_time_though_the_workers_clock_is_off",
            "test_it_names_a_wrong_clock",
        ],
        "its token is revoked, or the machine removed": [
            "test_removing_a_machine_in_the_middle_of_a_picture",
            "test_a_revoked_token_ends_the_worker_with_a_sentence",
        ],
        "a code is used twice, guessed at, or too old": [
            "test_a_code_works_once",
            "test_a_code_is_dead_after_five_wrong_tries",
            "test_a_code_is_dead_after_five_minutes",
        ],
        "the studio's certificate changes": [
            "test_it_names_another_certificate",
            "test_whoever_stands_between_with_a_certificate_of_its_own_gets_nothing",
        ],
        "the two programs are of different versions": [
            "test_another_version_says_who_must_be_updated",
            "test_another_version_of_the_protocol_is_named",
        ],
        "a job fails for a machine's reasons (memory, a missing or damaged file, a lost device)": [
            "test_each_able_slot_tries_once_and_three_at_most",
            "test_a_worker_passes_on_what_its_machine_could_not_make",
        ],
        "very many workers and people write at the same time": [
            "test_threads_write_in_the_order_in_which_they_came",
            "test_a_process_that_writes_without_pause_lets_another_write",
            "test_the_death_of_a_holder_frees_the_lock",
        ],
        "a job needs a file that a machine lacks": [
            "test_it_is_given_only_what_it_has_byte_for_byte",
            "test_a_job_that_a_machine_cannot_make_holds_none_behind_it_up",
        ],
        "a model file from the studio is cut off, damaged or has no room": [
            "test_a_break_is_resumed_where_it_was",
            "test_what_is_not_the_studios_is_thrown_away_and_not_tried_again",
            "test_a_disk_without_room_is_left_alone",
        ],
        "the worker stops while a job waits for its turn there": ["test_a_stop_gives_the_waiting_job_back"],
    },
    "cluster.md": {
        "the database's server dies or restarts": [
            "test_a_server_that_dies_and_comes_back_loses_nothing",
            "test_a_server_killed_again_and_again_while_jobs_run",
            "test_no_job_is_lost_doubled_or_left_running",
        ],
        "a COMMIT gets no answer": ["test_a_commit_without_an_answer_is_looked_up"],
        "the notifications of writes are cut off": [
            "test_it_asks_while_the_server_is_away_and_listens_again_afterwards"
        ],
        "the doorbell's server dies or restarts": [
            "test_jobs_are_made_while_the_backend_is_away",
            "test_a_worker_that_waits_hears_rings_again_once_the_backend_is_back",
            "test_no_job_is_lost_doubled_or_left_running",
        ],
        "the bucket refuses, is gone, or does not answer": [
            "test_a_bucket_that_is_not_there_is_told",
            "test_a_store_that_does_not_answer_is_told_in_time",
            "test_a_bucket_that_refuses_holds_the_queue_and_loses_no_picture",
            "test_the_page_tells_of_a_bucket_that_is_away_and_that_it_is_back",
        ],
        "a machine dies": [
            "test_a_machine_that_dies_loses_no_job_and_no_chore",
            "test_jobs_of_a_silent_worker_only_are_recovered",
        ],
        "the leader loses its connection": [
            "test_one_of_two_leads_and_the_other_takes_over",
            "test_a_leader_whose_connection_is_lost_leads_on_or_gives_way",
        ],
        "an address is wrong": [
            "test_an_unusable_address_is_refused_by_every_command",
            "test_a_house_with_a_wrong_url_is_not_opened",
            "test_what_is_no_bucket_is_refused_without_its_secret",
        ],
        "the database belongs to a newer program": ["test_a_database_of_a_newer_program_is_named"],
        "a move is cut off": ["test_a_move_that_is_cut_off_leaves_no_rows_and_goes_on"],
    },
}
HEADERS = {
    "trouble.md": ("fault", "what happens"),
    "machines.md": ("what happens", "what follows"),
    "cluster.md": ("what happens", "what follows"),
}


def test_every_fault_of_the_manual_has_tests() -> None:
    pages = {path.name: text for path, text in PAGES.items() if path.parent.name == "docs"}
    for page, header in HEADERS.items():
        assert [row[0] for row in table(pages[page], *header)] == list(FAULTS[page]), page


def test_the_tests_of_the_faults_exist() -> None:
    texts = [path.read_text(encoding="utf-8") for path in (REPOSITORY / "tests").rglob("test_*.py")]
    there = {name for text in texts for name in re.findall(r"^ *def (test_\w+)\(", text, re.MULTILINE)}
    named = {name for faults in FAULTS.values() for names in faults.values() for name in names}
    assert all(names for faults in FAULTS.values() for names in faults.values())
    assert named - there == set()
