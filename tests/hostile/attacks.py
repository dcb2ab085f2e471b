"""What is known to have been tried against KLAIS, or could be, and the tests that say it does not work.

One entry an attack: what an attacker does, and the tests (``file::function``). ``test_attacks.py`` checks that each of
them exists. docs/security.md says the same from the side of the defence.
"""

LANE, WIRE, HTTP, SYSTEM = "tests/unit/core/lane", "tests/unit/core/wire", "tests/unit/http", "tests/unit/system"
WORK, DEVICES, NAMES = (
    "tests/property/test_work_budget.py",
    f"{LANE}/test_devices_of_a_lane.py",
    f"{LANE}/test_field_names.py",
)
GUARD, CONNECTIONS, ADDRESSES = (f"{HTTP}/test_{name}.py" for name in ("guard", "connections", "addresses"))
FILES, LOCKS = f"{SYSTEM}/test_private_files.py", f"{SYSTEM}/test_file_lock.py"
PACKETS, HEADERS = "tests/kernel/test_xdp_packets.py", "tests/kernel/test_xdp_headers.py"
FUZZ = "tests/hostile"
ROUTES = f"{FUZZ}/test_http_routes.py"
SIGNED = "tests/kernel/test_xdp_auth.py"

BY_DATAGRAM: dict[str, list[str]] = {
    "lengths, offsets and JSON that break a parser": [
        f"{FUZZ}/test_fuzz_datagrams.py::"
        "test_mutated_datagrams_are_published_unchanged_or_dropped_with_the_right_reason",
        f"{FUZZ}/test_fuzz_records.py::test_a_frame_batch_is_read_or_becomes_a_dead_letter",
    ],
    "one datagram whose field names take minutes to find": [
        f"{WORK}::test_the_scan_reads_each_byte_a_few_times",
        f"{WORK}::test_python_runs_as_little_for_any_payload",
        f"{NAMES}::test_a_step_reads_a_few_names_and_later_steps_the_others",
        f"{LANE}/test_resume.py::test_a_poison_record_is_a_dead_letter_and_its_replay_counts_the_same",
        "tests/broker/test_lane_poison.py::test_a_record_on_which_the_lane_fails_again_and_again_is_set_aside",
    ],
    "numbers with which CPUs are slow": [
        "tests/unit/core/anomaly/test_two_tier.py::test_what_is_nearly_zero_is_zero",
        f"{WIRE}/test_json_number.py::test_a_number_whose_value_nobody_wants_ends_where_it_ends",
    ],
    "outliers whose anomaly records are long or slow to make": [
        f"{WORK}::test_rendering_a_flag_is_as_little_for_any_payload",
        f"{NAMES}::test_views_and_anomaly_records_give_one_name_and_records_stay_small",
    ],
    "invented ids that leave no room for new devices": [
        f"{DEVICES}::test_refused_frames_make_no_row",
        f"{DEVICES}::test_new_devices_come_at_their_rate_and_known_ones_as_they_like",
        f"{DEVICES}::test_a_full_lane_gets_room_when_silent_devices_are_forgotten",
    ],
    "invented ids from one address, which limits of devices do not stop": [
        "tests/broker/test_source_blocks.py::test_a_flood_of_invented_ids_from_one_address_is_stopped",
        "tests/kernel/test_control_hosts.py::"
        "test_a_blocked_source_is_blocked_on_every_host_and_an_allowed_address_is_not",
        "tests/unit/edge/test_blocked_sources.py::"
        "test_frames_of_a_blocked_sender_are_counted_and_no_dead_letters_and_all_others_pass",
    ],
    "invented field names that push out those in use": [
        f"{NAMES}::test_invented_names_push_out_no_name_in_use_and_leave_when_they_stop"
    ],
    "a forged frame that makes a device's own a duplicate": [
        f"{DEVICES}::test_sixteen_bits_are_not_enough_for_the_hash",
        f"{DEVICES}::test_a_key_that_was_changed_changes_hashes_and_no_verdict",
    ],
    "forged frames in the names of devices that sign": [
        f"{SIGNED}::test_a_forger_takes_no_tokens_of_the_device",
        f"{SIGNED}::test_only_a_good_tag_keeps_a_key",
        f"{SIGNED}::test_a_kept_key_ends_with_the_key_that_it_comes_from",
    ],
    "large frames that fill the queue's memory": [f"{DEVICES}::test_the_queue_is_bounded_in_bytes"],
    "many queued frames that delay those of others": [
        f"{FUZZ}/test_queue.py::test_a_flood_of_one_device_delays_no_other",
        f"{FUZZ}/test_queue.py::test_a_flood_of_one_prefix_delays_others_by_two_frames_of_each_device",
        "tests/property/test_fair_queue_property.py::"
        "test_frames_leave_in_the_order_of_the_definition_also_after_a_checkpoint",
    ],
    "ids of one partition that take the rate of other lanes": [
        "tests/property/test_control_property.py::test_shares_are_max_min_fair"
    ],
    "headers and fragments that the kernel filter does not see through": [
        f"{HEADERS}::test_a_blocked_device_comes_through_in_no_disguise",
        f"{HEADERS}::test_fragments_pass_or_are_dropped_as_the_loader_is_told",
        f"{HEADERS}::test_the_stack_delivers_nothing_that_the_filter_calls_not_ours",
    ],
    "ids that collide in the device index": [
        "tests/property/test_devices_property.py::test_ids_made_to_collide_do_not"
    ],
    "ids that collide in the kernel filter": [
        f"{PACKETS}::test_devices_whose_keys_are_equal_have_rules_and_buckets_of_their_own",
        "tests/kernel/test_xdp_table.py::test_devices_whose_keys_are_all_equal_keep_buckets_of_their_own",
    ],
    "a new id for each frame, so that no device has a rate": [
        f"{PACKETS}::test_the_least_recently_used_source_makes_room_and_none_within_its_limit_is_dropped",
        "tests/kernel/test_xdp_table.py::test_a_new_device_passes_however_full_the_table_is",
    ],
    "one value that blinds a profile, junk fields that fill it": [
        f"{DEVICES}::test_one_impossible_reading_does_not_blind_the_profile",
        f"{DEVICES}::test_fields_sent_once_give_their_slots_to_fields_that_are_sent",
    ],
    "malformed frames that fill the disk, or hide those of others": [
        "tests/unit/edge/test_allowance.py::test_bytes_are_bounded_too",
        "tests/unit/edge/test_allowance.py::test_a_flood_of_one_reason_or_source_does_not_hide_another",
        f"{LANE}/test_step.py::test_dead_letters_above_the_allowance_are_only_counted",
    ],
    "JSON that two parsers read differently": [
        f"{WIRE}/test_json_strict.py::test_first_problem_of_a_payload",
        f"{WIRE}/test_json_strict.py::test_a_strict_lane_refuses_with_the_detail_and_replays_the_same",
    ],
    "a device id that a spreadsheet computes": [
        "tests/unit/cli/test_devices.py::test_csv_of_a_device_that_calls_itself_a_formula"
    ],
    "a device id or payload that writes to a terminal": [
        "tests/unit/cli/test_printable.py::test_control",
        "tests/unit/cli/test_printable.py::test_commands_print_through_one_module",
        f"{FUZZ}/test_fuzz_records.py::test_whatever_a_topic_holds_is_shown_in_printable_lines",
    ],
}

BY_HTTP: dict[str, list[str]] = {
    "requests that are no HTTP, or that no client would send": [
        f"{FUZZ}/test_fuzz_http.py::test_whatever_is_sent_the_answer_is_one_of_the_document",
        f"{GUARD}::test_what_is_no_http_gets_400_in_the_one_shape",
        f"{GUARD}::test_other_versions_of_http_get_400_in_the_one_we_speak",
        f"{GUARD}::test_pages_answer_as_their_document_says",
        "tests/unit/edge/test_openapi.py::test_answers_match_the_document",
    ],
    "a web page that sets the rate": [
        f"{GUARD}::test_a_change_that_no_operator_sent_is_refused",
        "tests/unit/edge/test_api.py::test_a_rate_below_the_controllers_minimum_must_be_meant",
        "tests/unit/edge/test_api.py::test_who_changed_what_is_logged",
    ],
    "reading the payloads of devices with less than the token for changes": [
        "tests/unit/worker/test_tap.py::test_payloads_need_the_token_for_changes",
        "tests/unit/worker/test_frames.py::test_payloads_need_the_token_for_changes",
    ],
    "a web page that reads by DNS rebinding": [
        f"{GUARD}::test_foreign_names_are_refused_on_every_path",
        f"{ROUTES}::test_no_route_answers_to_a_foreign_name",
    ],
    "a new route without checks": [
        f"{ROUTES}::test_no_route_answers_a_page_of_another_origin",
        f"{ROUTES}::test_every_route_needs_the_token_that_it_should",
        f"{ROUTES}::test_no_change_comes_from_a_form",
        f"{ROUTES}::test_other_methods_are_refused",
    ],
    "paths that lead round the token, out of the page's files, or to another site": [
        f"{ROUTES}::test_no_path_goes_round_the_token_or_leads_away",
        f"{ROUTES}::test_no_answer_is_split",
    ],
    "bodies that are large, or never end": [
        f"{ROUTES}::test_bodies_are_bounded_before_they_are_read",
        f"{ROUTES}::test_many_chunks_are_no_way_round_the_bound",
        f"{ROUTES}::test_what_never_ends_is_ended",
        f"{ROUTES}::test_requests_in_one_packet_are_each_judged",
    ],
    "sessions that are made up, stolen over http, or of somebody who may only read": [
        f"{ROUTES}::test_no_cookie_that_nobody_signed_is_a_session",
        f"{ROUTES}::test_a_session_over_tls_goes_over_tls_only",
        f"{ROUTES}::test_a_session_of_whoever_may_read_changes_nothing_and_one_that_is_over_is_none",
    ],
    "reading and changing from another machine": [
        f"{GUARD}::test_elsewhere_than_on_loopback_a_token_is_made",
        f"{GUARD}::test_reading_needs_a_token_where_one_is_set",
        f"{HTTP}/test_client.py::test_workers_ask_each_other_directly_with_the_token",
    ],
    "connections that stay open, or use up descriptors": [
        f"{CONNECTIONS}::test_a_connection_that_does_not_go_on_is_closed",
        f"{CONNECTIONS}::test_drops_of_header_do_not_keep_a_connection",
        f"{CONNECTIONS}::test_one_client_has_its_share_and_is_told",
        f"{CONNECTIONS}::test_descriptors_are_left_for_the_data",
    ],
    "pages that are expensive to make": [
        f"{HTTP}/test_response_cache.py::test_computations_run_one_at_a_time_and_few_may_wait",
        f"{HTTP}/test_response_cache.py::test_whoever_asks_the_same_gets_the_same",
    ],
    "as many addresses as an IPv6 network has, or one for all behind a proxy": [
        f"{ADDRESSES}::test_one_ipv6_network_is_one_client",
        f"{ADDRESSES}::test_forwarded_for_counts_from_our_proxies_only",
        f"{GUARD}::test_only_health_from_this_machine_is_never_too_much",
    ],
    "a proxy of the environment that sees a token": [f"{HTTP}/test_client.py::test_no_client_of_ours_asks_a_proxy"],
    "answers that a browser runs, tokens that can be guessed": [
        f"{GUARD}::test_every_answer_has_the_headers_that_browsers_heed",
        "tests/unit/config/test_secret_file.py::test_weak_and_odd_tokens_are_refused",
    ],
}

ON_THE_HOST: dict[str, list[str]] = {
    "holding a lock": [
        f"{LOCKS}::test_only_this_user_can_open_a_lock_file_and_so_hold_it",
        f"{LOCKS}::test_who_has_the_lock_is_named",
        "tests/kernel/test_filtered_sources.py::test_another_user_cannot_keep_the_ring_from_its_reader",
    ],
    "reading telemetry from the disk": [
        f"{FILES}::test_folders_are_made_for_this_user_alone_with_their_parents",
        f"{FILES}::test_a_file_is_made_and_kept_for_this_user_alone",
    ],
    "planting code in a cache": [
        "tests/unit/jit/test_cache.py::test_a_cache_that_others_may_write_to_is_refused",
        "tests/unit/jit/test_cache.py::test_a_cache_that_cannot_be_made_is_not_put_elsewhere",
        "tests/unit/jit/test_library.py::test_others_may_write_it",
        "tests/unit/jit/test_library.py::test_it_belongs_to_somebody_else",
        "tests/unit/jit/test_library.py::test_a_link_is_not_followed",
        f"{FILES}::test_a_tree_of_which_a_part_is_anothers_is_refused",
        "tests/unit/xdp/test_bytecode_cache.py::test_a_file_that_others_could_have_written_counts_for_nothing",
    ],
    "planting code in the working folder": [
        "tests/unit/cli/test_working_folder.py::test_a_module_in_the_working_folder_is_not_imported",
        "tests/unit/cli/test_working_folder.py::test_every_command_of_ours_is_made_so",
        "tests/unit/cli/test_working_folder.py::test_a_worker_leaves_a_folder_that_others_can_write_to",
    ],
    "variables of another program that redirect a worker or open pages": [
        "tests/compat/test_app.py::test_no_variable_opens_pages_of_faust_or_tracebacks",
    ],
    "damaging settings, profiles and keys": [
        f"{FUZZ}/test_fuzz_settings.py::test_a_mutated_file_of_settings_is_read_or_refused",
        f"{FUZZ}/test_fuzz_settings.py::test_very_many_of_one_thing_are_refused_in_one_line",
        f"{FUZZ}/test_fuzz_settings.py::test_what_is_no_file_is_not_waited_for",
        f"{FUZZ}/test_fuzz_settings.py::test_a_device_has_one_key",
    ],
    "damaging a model": [
        f"{FUZZ}/test_fuzz_files.py::test_a_card_that_is_none_is_refused",
        f"{FUZZ}/test_fuzz_files.py::test_a_mutated_card_is_read_or_refused",
    ],
    "planting a language model": [
        "tests/unit/cli/test_working_folder.py::test_a_language_model_of_somebody_else_is_not_loaded",
        "tests/unit/cli/test_working_folder.py::test_the_process_of_the_language_model_gets_no_secrets",
    ],
    "links, and the pid of another process": [
        f"{FILES}::test_write_takes_the_place_of_a_link_and_does_not_follow_it",
        "tests/unit/broker/test_stop.py::test_a_process_that_only_has_the_pid_gets_no_signal",
    ],
    "damaging spool, journal and checkpoint": [
        f"{FUZZ}/test_fuzz_records.py::test_a_spool_segment_gives_only_what_was_put_in",
        f"{FUZZ}/test_fuzz_records.py::test_a_journal_record_is_read_or_refused",
        f"{FUZZ}/test_fuzz_records.py::test_a_marker_is_read_or_refused_and_what_it_names_waits",
        f"{FUZZ}/test_fuzz_records.py::test_a_device_row_is_read_or_refused",
    ],
    "records that a command fails on": [
        f"{FUZZ}/test_fuzz_commands.py::test_a_stretch_with_odd_records_has_an_answer",
        f"{FUZZ}/test_fuzz_commands.py::test_odd_dead_letters_stay_where_they_are",
        f"{FUZZ}/test_fuzz_commands.py::test_an_odd_ledger_is_passed_over",
        f"{FUZZ}/test_fuzz_commands.py::test_odd_samples_of_a_tap_are_shown_or_passed_over",
    ],
    "batch numbers that overflow a counter": [
        f"{LANE}/test_step.py::test_batches_whose_numbers_jump_far_stop_no_lane",
    ],
    "writing to topics": [
        "tests/broker/test_rights.py::test_edge_and_worker_run_with_the_documented_rights",
        f"{FUZZ}/test_fuzz_records.py::test_a_control_record_is_applied_or_refused_and_never_half",
        f"{FUZZ}/test_fuzz_records.py::test_a_statistics_record_is_read_or_refused",
        f"{SYSTEM}/test_shallow_json.py::test_deep_records_are_refused_by_all_readers",
        f"{FUZZ}/test_fuzz_control.py::test_any_control_record_is_refused_or_all_readers_go_on",
        f"{FUZZ}/test_fuzz_control.py::test_any_state_of_incidents_is_refused_or_the_grouping_goes_on",
        f"{FUZZ}/test_fuzz_control.py::test_any_statistics_record_is_refused_or_the_controller_goes_on",
        f"{FUZZ}/test_fuzz_control.py::test_any_statistics_record_is_refused_or_the_edges_go_on",
        f"{FUZZ}/test_fuzz_profiles.py::test_a_number_that_no_detector_writes_is_refused",
        f"{FUZZ}/test_fuzz_files.py::test_a_mutated_claim_names_numbers_of_edges_or_none",
        f"{FUZZ}/test_fuzz_files.py::test_a_mutated_record_of_the_audit_is_an_object_or_left_out",
        "tests/unit/control/test_many_records.py::test_a_record_costs_the_same_however_many_there_are",
        f"{FUZZ}/test_fuzz_profiles.py::test_a_profile_is_taken_over_or_passed_over_and_the_lane_goes_on",
    ],
    "damaging models, samples, manifests and recordings": [
        f"{FUZZ}/test_fuzz_files.py::test_mutated_arrays_of_models_and_samples_are_read_or_refused",
        f"{FUZZ}/test_fuzz_files.py::test_a_mutated_manifest_is_read_or_refused",
        f"{FUZZ}/test_fuzz_files.py::test_a_mutated_recording_is_played_or_refused",
    ],
    "what is left to an attacker who took over a process": [
        "tests/unit/test_units.py::test_a_unit_leaves_little_open",
        "tests/unit/test_units.py::test_an_edge_with_the_filter_leaves_little_open",
        "tests/unit/test_setup_files.py::test_composed_processes_have_few_rights_and_bounds",
    ],
    "reading secrets": [
        "tests/unit/config/test_secret_file.py::test_every_secret_may_be_in_a_file",
        "tests/unit/config/test_secret_file.py::test_what_others_can_read_or_write_is_refused",
        "tests/unit/kafka/test_clients.py::test_what_is_made_of_them_holds_no_secret_in_its_text_either",
    ],
}

BY_PACKAGE: dict[str, list[str]] = {
    "another jar of Kafka": [
        "tests/unit/broker/test_setup.py::test_other_jars_are_refused_at_each_start",
        "tests/unit/broker/test_setup.py::test_what_maven_gives_is_compared_before_it_is_kept",
    ],
    "another Python package": [
        "tests/unit/test_setup_files.py::"
        "test_the_lock_has_every_package_of_the_project_with_its_hash_and_names_no_index",
        "tests/unit/test_setup_files.py::test_setup_and_image_take_no_package_without_its_hash",
    ],
    "kernel headers for the compiler that runs as root": [
        "tests/kernel/test_xdp_build.py::test_the_compiler_runs_as_nobody_without_groups_and_environment",
        "tests/kernel/test_xdp_build.py::test_the_compiler_does_not_start_without_headers_of_root",
    ],
}

FAMILIES = {
    "datagram": BY_DATAGRAM,
    "http": BY_HTTP,
    "host": ON_THE_HOST,
    "package": BY_PACKAGE,
}
